//! Size and offsets of every struct here, checked when the crate is compiled against what a C compiler makes of the
//! headers of release 4.17 (x86-64). There is nothing to call.
//!
//! `same` lists those that are alike on i386, `wide` those that have another layout there, in [`crate::compat`].

macro_rules! wide {
    ($($ty:path: $size:literal { $($field:ident @ $offset:literal),* $(,)? })*) => {
        $(const _: () = {
            assert!(size_of::<$ty>() == $size, concat!("size of ", stringify!($ty)));
            $(assert!(
                core::mem::offset_of!($ty, $field) == $offset,
                concat!("offset of ", stringify!($field), " in ", stringify!($ty))
            );)*
        };)*
    };
}

macro_rules! same {
    ($($ty:path: $size:literal { $($fields:tt)* })*) => {
        wide! { $($ty: $size { $($fields)* })* }
        crate::compat::same!($($ty),*);
    };
}

wide! {
    crate::grant_table::GnttabSetupTable: 24 { dom @ 0, nr_frames @ 4, status @ 8, frame_list @ 16 }
    crate::grant_table::GnttabCopyPtr: 16 { u @ 0, domid @ 8, offset @ 10 }
    crate::grant_table::GnttabCopy: 40 { source @ 0, dest @ 16, len @ 32, flags @ 34, status @ 36 }
    crate::memory::XenMemoryReservation: 32 {
        extent_start @ 0, nr_extents @ 8, extent_order @ 16, mem_flags @ 20, domid @ 24,
    }
    crate::memory::XenAddToPhysmap: 24 { domid @ 0, size @ 2, space @ 4, idx @ 8, gpfn @ 16 }
    crate::memory::XenAddToPhysmapBatch: 32 {
        domid @ 0, space @ 2, size @ 4, foreign_domid @ 6, idxs @ 8, gpfns @ 16, errs @ 24,
    }
    crate::memory::XenRemoveFromPhysmap: 16 { domid @ 0, gpfn @ 8 }
    crate::memory::XenMemoryMap: 16 { nr_entries @ 0, buffer @ 8 }
    crate::memory::XenForeignMemoryMap: 24 { domid @ 0, map @ 8 }
    crate::memory::XenPodTarget: 40 {
        target_pages @ 0, tot_pages @ 8, pod_cache_pages @ 16, pod_entries @ 24, domid @ 32,
    }
    crate::memory::XenMemAcquireResource: 32 {
        domid @ 0, type_ @ 2, id @ 4, nr_frames @ 8, pad @ 12, frame @ 16, frame_list @ 24,
    }
    crate::sched::SchedPoll: 24 { ports @ 0, nr_ports @ 8, timeout @ 16 }
    crate::vcpu::VcpuRunstateInfo: 48 { state @ 0, state_entry_time @ 8, time @ 16 }
    crate::vcpu::VcpuRegisterMemoryArea: 8 { addr @ 0 }
    crate::vcpu::VcpuSetSingleshotTimer: 16 { timeout_abs_ns @ 0, flags @ 8 }
    crate::version::XenPlatformParameters: 8 { virt_start @ 0 }
    crate::xen::MulticallEntry: 64 { op @ 0, result @ 8, args @ 16 }
}

same! {
    crate::arch_x86::xen::CpuUserRegs: 200 {
        gprs @ 0, error_code @ 120, entry_vector @ 124, rip @ 128, cs @ 136, saved_upcall_mask @ 140, rflags @ 144,
        rsp @ 152, selectors @ 160,
    }
    crate::arch_x86::xen::VcpuGuestContext: 5168 {
        fpu_ctxt @ 0, flags @ 512, user_regs @ 520, trap_ctxt @ 720, ldt_base @ 4816, ldt_ents @ 4824,
        gdt_frames @ 4832, gdt_ents @ 4960, kernel_ss @ 4968, kernel_sp @ 4976, ctrlreg @ 4984, debugreg @ 5048,
        callbacks @ 5112, vm_assist @ 5136, fs_base @ 5144, gs_base_kernel @ 5152, gs_base_user @ 5160,
    }
    crate::hvm::save::HvmSaveDescriptor: 8 { typecode @ 0, instance @ 2, length @ 4 }
    crate::hvm::save::HvmSaveHeader: 24 { magic @ 0, version @ 4, changeset @ 8, cpuid @ 16, gtsc_khz @ 20 }
    crate::hvm::save::HvmHwCpu: 1032 {
        fpu_regs @ 0, gprs @ 512, rip @ 640, rflags @ 648, cr0 @ 656, cr2 @ 664, cr3 @ 672, cr4 @ 680, dr @ 688,
        dr6 @ 720, dr7 @ 728, sel @ 736, limit @ 768, base @ 808, arbytes @ 888, sysenter_cs @ 920, sysenter_esp @ 928,
        sysenter_eip @ 936, shadow_gs @ 944, msr_flags @ 952, msr_lstar @ 960, msr_star @ 968, msr_cstar @ 976,
        msr_syscall_mask @ 984, msr_efer @ 992, msr_tsc_aux @ 1000, tsc @ 1008, pending_event @ 1016,
        error_code @ 1020, flags @ 1024, pad0 @ 1028,
    }
    crate::hvm::save::HvmHwLapic: 24 { apic_base_msr @ 0, disabled @ 8, timer_divisor @ 12, tdt_msr @ 16 }
    crate::hvm::save::HvmHwMtrr: 240 {
        msr_pat_cr @ 0, msr_mtrr_var @ 8, msr_mtrr_fixed @ 136, msr_mtrr_cap @ 224, msr_mtrr_def_type @ 232,
    }
    crate::hvm::save::HvmHwCpuXsave: 600 {
        xfeature_mask @ 0, xcr0 @ 8, xcr0_accum @ 16, fpu_sse @ 24, xstate_bv @ 536, xcomp_bv @ 544, reserved @ 552,
    }
    crate::hvm::save::HvmOneMsr: 16 { index @ 0, val @ 8 }
    crate::arch_x86::hvm::start_info::HvmStartInfo: 56 {
        magic @ 0, version @ 4, flags @ 8, nr_modules @ 12, modlist_paddr @ 16, cmdline_paddr @ 24, rsdp_paddr @ 32,
        memmap_paddr @ 40, memmap_entries @ 48, reserved @ 52,
    }
    crate::arch_x86::hvm::start_info::HvmModlistEntry: 32 { paddr @ 0, size @ 8, cmdline_paddr @ 16, reserved @ 24 }
    crate::arch_x86::hvm::start_info::HvmMemmapTableEntry: 24 { addr @ 0, size @ 8, type_ @ 16, reserved @ 20 }
    crate::domctl::XenDomctl: 144 { cmd @ 0, interface_version @ 4, domain @ 8, u @ 16 }
    crate::domctl::XenArchDomainconfig: 8 { emulation_flags @ 0, misc_flags @ 4 }
    crate::domctl::XenDomctlCreatedomain: 64 {
        ssidref @ 0, handle @ 4, flags @ 20, iommu_opts @ 24, max_vcpus @ 28, max_evtchn_port @ 32,
        max_grant_frames @ 36, max_maptrack_frames @ 40, grant_opts @ 44, vmtrace_size @ 48, cpupool_id @ 52,
        arch @ 56,
    }
    crate::domctl::XenDomctlGetdomaininfo: 112 {
        domain @ 0, pad1 @ 2, flags @ 4, tot_pages @ 8, max_pages @ 16, outstanding_pages @ 24, shr_pages @ 32,
        paged_pages @ 40, shared_info_frame @ 48, cpu_time @ 56, nr_online_vcpus @ 64, max_vcpu_id @ 68, ssidref @ 72,
        handle @ 76, cpupool @ 92, gpaddr_bits @ 96, pad2 @ 97, arch_config @ 104,
    }
    crate::domctl::XenDomctlGetpageframeinfo3: 16 { num @ 0, array @ 8 }
    crate::domctl::XenDomctlShadowOp: 40 { op @ 0, mode @ 4, mb @ 8, dirty_bitmap @ 16, pages @ 24, stats @ 32 }
    crate::domctl::XenDomctlMaxMem: 8 { max_memkb @ 0 }
    crate::domctl::XenDomctlVcpucontext: 16 { vcpu @ 0, ctxt @ 8 }
    crate::domctl::XenDomctlGetvcpuinfo: 24 { vcpu @ 0, online @ 4, blocked @ 5, running @ 6, cpu_time @ 8, cpu @ 16 }
    crate::domctl::XenDomctlVcpuaffinity: 40 { vcpu @ 0, flags @ 4, cpumap_hard @ 8, cpumap_soft @ 24 }
    crate::domctl::XenDomctlNodeaffinity: 16 { nodemap @ 0 }
    crate::domctl::XenDomctlMaxVcpus: 4 { max @ 0 }
    crate::domctl::XenDomctlSchedulerOp: 24 { sched_id @ 0, cmd @ 4, u @ 8 }
    crate::domctl::XenDomctlSetdomainhandle: 16 { handle @ 0 }
    crate::domctl::XenDomctlIrqPermission: 8 { pirq @ 0, allow_access @ 4 }
    crate::domctl::XenDomctlIomemPermission: 24 { first_mfn @ 0, nr_mfns @ 8, allow_access @ 16 }
    crate::domctl::XenDomctlIoportPermission: 12 { first_port @ 0, nr_ports @ 4, allow_access @ 8 }
    crate::domctl::XenDomctlSetVirqHandler: 4 { virq @ 0 }
    crate::domctl::XenDomctlSettimeoffset: 8 { time_offset_seconds @ 0 }
    crate::domctl::XenDomctlSendtrigger: 8 { trigger @ 0, vcpu @ 4 }
    crate::domctl::XenDomctlSubscribe: 4 { port @ 0 }
    crate::domctl::XenDomctlHvmcontext: 16 { size @ 0, buffer @ 8 }
    crate::domctl::XenDomctlHvmcontextPartial: 24 { type_ @ 0, instance @ 4, bufsz @ 8, buffer @ 16 }
    crate::domctl::XenDomctlTscInfo: 24 { tsc_mode @ 0, gtsc_khz @ 4, incarnation @ 8, pad @ 12, elapsed_nsec @ 16 }
    crate::domctl::XenDomctlCpuPolicy: 40 {
        nr_leaves @ 0, nr_msrs @ 4, leaves @ 8, msrs @ 16, err_leaf @ 24, err_subleaf @ 28, err_msr @ 32,
    }
    crate::domctl::XenCpuidLeaf: 24 { leaf @ 0, subleaf @ 4, a @ 8, b @ 12, c @ 16, d @ 20 }
    crate::domctl::XenMsrEntry: 16 { idx @ 0, flags @ 4, val @ 8 }
    crate::domctl::XenDomctlPagingMempool: 8 { size @ 0 }
    crate::event_channel::EvtchnAllocUnbound: 8 { dom @ 0, remote_dom @ 2, port @ 4 }
    crate::event_channel::EvtchnBindInterdomain: 12 { remote_dom @ 0, remote_port @ 4, local_port @ 8 }
    crate::event_channel::EvtchnBindVirq: 12 { virq @ 0, vcpu @ 4, port @ 8 }
    crate::event_channel::EvtchnBindPirq: 12 { pirq @ 0, flags @ 4, port @ 8 }
    crate::event_channel::EvtchnBindIpi: 8 { vcpu @ 0, port @ 4 }
    crate::event_channel::EvtchnClose: 4 { port @ 0 }
    crate::event_channel::EvtchnSend: 4 { port @ 0 }
    crate::event_channel::EvtchnUnmask: 4 { port @ 0 }
    crate::event_channel::EvtchnBindVcpu: 8 { port @ 0, vcpu @ 4 }
    crate::event_channel::EvtchnStatus: 24 { dom @ 0, port @ 4, status @ 8, vcpu @ 12, u @ 16, interdomain_port @ 20 }
    crate::event_channel::EvtchnReset: 2 { dom @ 0 }
    crate::event_channel::EvtchnInitControl: 24 { control_gfn @ 0, offset @ 8, vcpu @ 12, link_bits @ 16 }
    crate::event_channel::EvtchnExpandArray: 8 { array_gfn @ 0 }
    crate::event_channel::EvtchnSetPriority: 8 { port @ 0, priority @ 4 }
    crate::event_channel::EvtchnFifoControlBlock: 72 { ready @ 0, head @ 8 }
    crate::grant_table::GrantEntryV1: 8 { flags @ 0, domid @ 2, frame @ 4 }
    crate::grant_table::GnttabMapGrantRef: 32 {
        host_addr @ 0, flags @ 8, ref_ @ 12, dom @ 16, status @ 18, handle @ 20, dev_bus_addr @ 24,
    }
    crate::grant_table::GnttabUnmapGrantRef: 24 { host_addr @ 0, dev_bus_addr @ 8, handle @ 16, status @ 20 }
    crate::grant_table::GnttabUnmapAndReplace: 24 { host_addr @ 0, new_addr @ 8, handle @ 16, status @ 20 }
    crate::grant_table::GnttabQuerySize: 16 { dom @ 0, nr_frames @ 4, max_nr_frames @ 8, status @ 12 }
    crate::grant_table::GnttabSetVersion: 4 { version @ 0 }
    crate::grant_table::GnttabGetVersion: 8 { dom @ 0, version @ 4 }
    crate::hvm::hvm_op::XenHvmParam: 16 { domid @ 0, pad @ 2, index @ 4, value @ 8 }
    crate::hvm::hvm_op::XenHvmPagetableDying: 16 { domid @ 0, pad @ 2, gpa @ 8 }
    crate::hvm::hvm_op::XenHvmGetTime: 8 { now @ 0 }
    crate::hvm::hvm_op::XenHvmGetMemType: 16 { domid @ 0, mem_type @ 2, pad @ 4, pfn @ 8 }
    crate::hvm::hvm_op::XenHvmEvtchnUpcallVector: 8 { vcpu @ 0, vector @ 4 }
    crate::hvm::hvm_vcpu::VcpuHvmX8632: 120 {
        eax @ 0, ecx @ 4, edx @ 8, ebx @ 12, esp @ 16, ebp @ 20, esi @ 24, edi @ 28, eip @ 32, eflags @ 36, cr0 @ 40,
        cr3 @ 44, cr4 @ 48, pad1 @ 52, efer @ 56, bases @ 64, limits @ 84, ars @ 104, pad2 @ 114,
    }
    crate::hvm::hvm_vcpu::VcpuHvmX8664: 112 {
        rax @ 0, rcx @ 8, rdx @ 16, rbx @ 24, rsp @ 32, rbp @ 40, rsi @ 48, rdi @ 56, rip @ 64, rflags @ 72, cr0 @ 80,
        cr3 @ 88, cr4 @ 96, efer @ 104,
    }
    crate::hvm::hvm_vcpu::VcpuHvmContext: 128 { mode @ 0, pad @ 4, cpu_regs @ 8 }
    crate::io::console::XenconsInterface: 3088 {
        in_ @ 0, out @ 1024, in_cons @ 3072, in_prod @ 3076, out_cons @ 3080, out_prod @ 3084,
    }
    crate::io::xs_wire::XsdSockmsg: 16 { type_ @ 0, req_id @ 4, tx_id @ 8, len @ 12 }
    crate::io::xs_wire::XenstoreDomainInterface: 2076 {
        req @ 0, rsp @ 1024, req_cons @ 2048, req_prod @ 2052, rsp_cons @ 2056, rsp_prod @ 2060,
        server_features @ 2064, connection @ 2068, error @ 2072,
    }
    crate::memory::E820Entry: 20 { addr @ 0, size @ 8, type_ @ 16 }
    crate::memory::XenReservedDeviceMemoryMap: 24 { flags @ 0, nr_entries @ 4, buffer @ 8, dev @ 16 }
    crate::physdev::PhysdevManagePci: 2 { bus @ 0, devfn @ 1 }
    crate::physdev::PhysdevSetupGsi: 8 { gsi @ 0, triggering @ 4, polarity @ 5 }
    crate::physdev::PhysdevPciMmcfgReserved: 16 { address @ 0, segment @ 8, start_bus @ 10, end_bus @ 11, flags @ 12 }
    crate::physdev::PhysdevPciDeviceAdd: 12 { seg @ 0, bus @ 2, devfn @ 3, flags @ 4, physfn_bus @ 8, physfn_devfn @ 9 }
    crate::physdev::PhysdevPciDevice: 4 { seg @ 0, bus @ 2, devfn @ 3 }
    crate::physdev::PhysdevDbgpOp: 6 { op @ 0, bus @ 1, pci @ 2 }
    crate::platform::XenPlatformOp: 136 { cmd @ 0, interface_version @ 4, u @ 8 }
    crate::platform::XenpfSettime32: 16 { secs @ 0, nsecs @ 4, system_time @ 8 }
    crate::platform::XenpfSettime64: 24 { secs @ 0, nsecs @ 8, mbz @ 12, system_time @ 16 }
    crate::platform::XenpfFirmwareInfo: 8 { type_ @ 0, index @ 4 }
    crate::platform::XenpfEfiConfigTable: 16 { addr @ 0, nent @ 8 }
    crate::platform::XenpfEfiVendor: 16 { revision @ 0, bufsz @ 4, name @ 8 }
    crate::platform::XenpfEfiMemInfo: 32 { addr @ 0, size @ 8, attr @ 16, type_ @ 24 }
    crate::platform::XenpfEfiRuntimeCall: 16 { function @ 0, misc @ 4, status @ 8 }
    crate::platform::XenpfEfiTime: 24 { time @ 0, resolution @ 16, accuracy @ 20 }
    crate::platform::XenpfEfiVariable: 40 { name @ 0, size @ 8, data @ 16, vendor_guid @ 24 }
    crate::platform::XenpfEfiNextName: 32 { size @ 0, name @ 8, vendor_guid @ 16 }
    crate::platform::XenpfEfiVariableInfo: 32 {
        attr @ 0, max_store_size @ 8, remain_store_size @ 16, max_size @ 24,
    }
    crate::platform::XenpfPcpuinfo: 20 { xen_cpuid @ 0, max_present @ 4, flags @ 8, apic_id @ 12, acpi_id @ 16 }
    crate::sched::SchedShutdown: 4 { reason @ 0 }
    crate::sched::SchedRemoteShutdown: 8 { domain_id @ 0, reason @ 4 }
    crate::sched::SchedWatchdog: 8 { id @ 0, timeout @ 4 }
    crate::sched::SchedPinOverride: 4 { pcpu @ 0 }
    crate::sysctl::XenSysctl: 136 { cmd @ 0, interface_version @ 4, u @ 8 }
    crate::sysctl::XenSysctlReadconsole: 24 {
        clear @ 0, incremental @ 1, pad0 @ 2, pad1 @ 3, index @ 4, buffer @ 8, count @ 16,
    }
    crate::sysctl::XenSysctlPhysinfo: 112 {
        threads_per_core @ 0, cores_per_socket @ 4, nr_cpus @ 8, max_cpu_id @ 12, nr_nodes @ 16, max_node_id @ 20,
        cpu_khz @ 24, capabilities @ 28, arch_capabilities @ 32, pad @ 36, total_pages @ 40, free_pages @ 48,
        scrub_pages @ 56, outstanding_pages @ 64, max_mfn @ 72, hw_cap @ 80,
    }
    crate::sysctl::XenSysctlSchedId: 4 { sched_id @ 0 }
    crate::sysctl::XenSysctlGetdomaininfolist: 24 { first_domain @ 0, max_domains @ 4, buffer @ 8, num_domains @ 16 }
    crate::sysctl::XenSysctlDebugKeys: 16 { keys @ 0, nr_keys @ 8 }
    crate::sysctl::XenSysctlGetcpuinfo: 24 { max_cpus @ 0, info @ 8, nr_cpus @ 16 }
    crate::sysctl::XenSysctlAvailheap: 24 { min_bitwidth @ 0, max_bitwidth @ 4, node @ 8, avail_bytes @ 16 }
    crate::sysctl::XenSysctlCputopo: 12 { core @ 0, socket @ 4, node @ 8 }
    crate::sysctl::XenSysctlCputopoinfo: 16 { num_cpus @ 0, cputopo @ 8 }
    crate::sysctl::XenSysctlMeminfo: 16 { memsize @ 0, memfree @ 8 }
    crate::sysctl::XenSysctlNumainfo: 24 { num_nodes @ 0, meminfo @ 8, distance @ 16 }
    crate::sysctl::XenSysctlCpupoolOp: 40 {
        op @ 0, cpupool_id @ 4, sched_id @ 8, domid @ 12, cpu @ 16, n_dom @ 20, cpumap @ 24,
    }
    crate::sysctl::XenSysctlSchedulerOp: 32 { cpupool_id @ 0, sched_id @ 4, cmd @ 8, u @ 16 }
    crate::sysctl::XenSysctlPcitopoinfo: 24 { num_devs @ 0, devs @ 8, nodes @ 16 }
    crate::sysctl::XenSysctlCpuFeatureset: 16 { index @ 0, nr_features @ 4, features @ 8 }
    crate::sysctl::XenSysctlCpuPolicy: 32 { index @ 0, nr_leaves @ 4, nr_msrs @ 8, leaves @ 16, msrs @ 24 }
    crate::vcpu::VcpuSetPeriodicTimer: 8 { period_ns @ 0 }
    crate::vcpu::VcpuRegisterVcpuInfo: 16 { mfn @ 0, offset @ 8, rsvd @ 12 }
    crate::vcpu::VcpuGetPhysid: 8 { phys_id @ 0 }
    crate::version::XenCompileInfo: 144 { compiler @ 0, compile_by @ 64, compile_domain @ 80, compile_date @ 112 }
    crate::version::XenFeatureInfo: 8 { submap_idx @ 0, submap @ 4 }
    crate::version::XenBuildId: 4 { len @ 0 }
    crate::xen::VcpuTimeInfo: 32 {
        version @ 0, tsc_timestamp @ 8, system_time @ 16, tsc_to_system_mul @ 24, tsc_shift @ 28, flags @ 29,
    }
    crate::xen::VcpuInfo: 64 {
        evtchn_upcall_pending @ 0, evtchn_upcall_mask @ 1, evtchn_pending_sel @ 8, cr2 @ 16, time @ 32,
    }
    crate::xen::SharedInfo: 3136 {
        vcpu_info @ 0, evtchn_pending @ 2048, evtchn_mask @ 2560, wc_version @ 3072, wc_sec @ 3076, wc_nsec @ 3080,
        wc_sec_hi @ 3084, arch @ 3088,
    }
    crate::xen::XenctlBitmap: 16 { bitmap @ 0, nr_bits @ 8 }
    crate::xen::Dom0VgaConsoleInfo: 16 {
        video_type @ 0, font_height @ 4, cursor_x @ 6, cursor_y @ 8, rows @ 10, columns @ 12,
    }
    crate::xen::Dom0FrameBufferInfo: 40 {
        video_type @ 0, width @ 4, height @ 6, bytes_per_line @ 8, bits_per_pixel @ 10, lfb_base @ 12, lfb_size @ 16,
        red @ 20, green @ 22, blue @ 24, reserved @ 26, gbl_caps @ 28, mode_attrs @ 32, ext_lfb_base @ 36,
    }
}
