//! vCPUs, their timers and their callbacks.

use super::*;

#[test]
fn vcpus_tell_and_are_told() {
    let outcome = alike(|guest| {
        let info = VcpuRegisterVcpuInfo {
            mfn: AREA >> 12,
            offset: 64,
            rsvd: 0,
        };
        let info = [0, 1, 0].map(|vcpu| guest.of_vcpu(VCPUOP_register_vcpu_info, vcpu, info).0);
        let runstate = guest.of_vcpu(
            VCPUOP_get_runstate_info,
            0,
            VcpuRunstateInfo {
                state: -1,
                ..VcpuRunstateInfo::default()
            },
        );
        let area = VcpuRegisterMemoryArea { addr: SHARED + 256 };
        let time = guest
            .of_vcpu(VCPUOP_register_vcpu_time_memory_area, 0, area)
            .0;
        let mul: u32 = guest.get(SHARED + 256 + 24);
        let timer = |timeout_abs_ns, flags| VcpuSetSingleshotTimer {
            timeout_abs_ns,
            flags,
            ..VcpuSetSingleshotTimer::default()
        };
        let late = guest.of_vcpu(
            VCPUOP_set_singleshot_timer,
            0,
            timer(1, VCPU_SSHOTTMR_future),
        );
        let early = guest.of_vcpu(VCPUOP_set_singleshot_timer, 0, timer(u64::MAX / 2, 0));
        let up = guest.call(__HYPERVISOR_vcpu_op, [VCPUOP_is_up.into(), 1, 0, 0, 0]);
        let never = guest.call(__HYPERVISOR_vcpu_op, [VCPUOP_up.into(), 1, 0, 0, 0]);
        (
            info,
            runstate.0,
            runstate.1.state,
            time,
            mul,
            late.0,
            early.0,
            up,
            never,
        )
    });
    let einval = refused(Errno::EINVAL);
    assert_eq!(outcome.0, [0, 0, einval]);
    assert!((0..4).contains(&outcome.2) && outcome.4 != 0);
    assert_eq!(outcome.5, refused(Errno::ETIME));
    assert_eq!((outcome.3, outcome.6, outcome.8), (0, 0, einval));
}

#[test]
fn poll_finds_its_ports() {
    let outcome = alike(|guest| {
        let events = __HYPERVISOR_event_channel_op;
        let ipi = guest.with(
            events,
            EVTCHNOP_bind_ipi,
            EvtchnBindIpi { vcpu: 0, port: 0 },
        );
        let port = ipi.1.port;
        let poll = SchedPoll {
            ports: guest.put_all(ARRAY, &[port]),
            nr_ports: 1,
            ..SchedPoll::default()
        };
        let waits = guest.with(__HYPERVISOR_sched_op, SCHEDOP_poll, poll).0;
        let polling = guest.runner.activity;
        guest.runner.wake(&mut guest.pcpu);
        let sent = guest.with(events, EVTCHNOP_send, EvtchnSend { port }).0;
        let found = guest.with(__HYPERVISOR_sched_op, SCHEDOP_poll, poll).0;
        let ready = guest.runner.activity;
        let bad = SchedShutdown { reason: 99 };
        let bad = guest.with(__HYPERVISOR_sched_op, SCHEDOP_shutdown, bad).0;
        (waits, polling, sent, found, ready, bad)
    });
    assert_eq!(outcome.1, Activity::Polling);
    assert_eq!(outcome.4, Activity::Ready);
}

/// A time of more than 32 bits, in two registers.
#[test]
fn timer_of_old_takes_its_time_in_two_halves() {
    prepare();
    let fired = |width, args: [u64; 2]| {
        let mut guest = Guest::new(width);
        let virq = EvtchnBindVirq {
            virq: VIRQ_TIMER,
            vcpu: 0,
            port: 0,
        };
        let (_, virq) = guest.with(__HYPERVISOR_event_channel_op, EVTCHNOP_bind_virq, virq);
        assert_eq!(
            guest.call(__HYPERVISOR_set_timer_op, [args[0], args[1], 0, 0, 0]),
            0
        );
        let events = guest.runner.domain.events.lock();
        events.is_pending(hv_core::evtchn::Port::new(virq.port))
    };
    assert!(fired(Width::Bits32, [1, 0]));
    assert!(fired(Width::Bits64, [1, 0x1000_0000]));
    assert!(!fired(Width::Bits32, [1, 0x1000_0000]));
}

#[test]
fn who_sets_the_callback_in_32_bit_code_has_its_shared_info_so() {
    prepare();
    for (width, version, pending, mask_of_200) in [
        (Width::Bits64, 3072, 8, 2560 + 24),
        (Width::Bits32, 2304, 4, 2176 + 24),
    ] {
        let mut guest = Guest::new(width);
        let param = XenHvmParam {
            domid: DOMID_SELF,
            pad: 0,
            index: HVM_PARAM_CALLBACK_IRQ,
            value: 1,
        };
        let shared = guest.runner.domain.shared_info;
        let before = shared.load_u32(version);
        assert_eq!(guest.with(__HYPERVISOR_hvm_op, HVMOP_set_param, param).0, 0);
        assert_ne!(shared.load_u32(version), before, "the wall clock is told");
        let number = __HYPERVISOR_event_channel_op;
        let mut port = 0;
        while port < 200 {
            port = guest
                .with(
                    number,
                    EVTCHNOP_bind_ipi,
                    EvtchnBindIpi { vcpu: 1, port: 0 },
                )
                .1
                .port;
        }
        shared.store_u32(mask_of_200, 1 << (200 % 32));
        assert_eq!(guest.with(number, EVTCHNOP_send, EvtchnSend { port }).0, 0);
        assert_eq!(shared.load_u32(2048 + 24), 1 << (200 % 32));
        assert_eq!(shared.load_u8(64), 0, "masked");
        assert_eq!(
            guest.with(number, EVTCHNOP_unmask, EvtchnUnmask { port }).0,
            0
        );
        assert_eq!(shared.load_u8(64), 1);
        assert_ne!(shared.load_u32(64 + pending), 0);
    }
}

#[test]
fn watchdog_that_is_not_kicked_ends_its_domain() {
    let outcome = alike(|guest| {
        let set = |guest: &mut Guest, id, timeout| {
            let dog = SchedWatchdog { id, timeout };
            guest.with(__HYPERVISOR_sched_op, SCHEDOP_watchdog, dog).0
        };
        let answers = [(1, 9), (0, 1000), (0, 1000), (0, 1000), (3, 9), (2, 0)];
        let answers = answers.map(|(id, timeout)| set(guest, id, timeout));
        guest.pcpu.expire_timers();
        let early = guest.runner.domain.shutdown_reason();
        // at once
        let last = set(guest, 0, 0);
        guest.pcpu.expire_timers();
        (answers, early, last, guest.runner.domain.shutdown_reason())
    });
    let [einval, enospc] = [Errno::EINVAL, Errno::ENOSPC].map(refused);
    assert_eq!(outcome.0, [einval, 1, 2, enospc, einval, 0]);
    assert_eq!((outcome.1, outcome.2), (None, 2));
    assert_eq!(outcome.3, Some(ShutdownReason::Other(SHUTDOWN_watchdog)));
}

#[test]
fn line_does_not_take_the_place_of_a_callback_vector() {
    let vector = alike(|guest| {
        for value in [2 << 56 | 0xF3, 1, 1 << 56 | 3 << 11, 0, 3 << 56] {
            let param = XenHvmParam {
                domid: DOMID_SELF,
                pad: 0,
                index: HVM_PARAM_CALLBACK_IRQ,
                value,
            };
            assert_eq!(guest.with(__HYPERVISOR_hvm_op, HVMOP_set_param, param).0, 0);
        }
        guest.runner.domain.callback.vector()
    });
    assert_eq!(vector, Some(0xF3));
}

/// Xen takes any: what the guest has at that place of its interrupt table is its own business.
#[test]
fn callback_may_have_a_vector_that_no_interrupt_controller_has() {
    for vector in [0, 15, 255] {
        let told = alike(|guest| {
            assert_eq!(guest.runner.domain.callback.vector(), None);
            let param = XenHvmParam {
                domid: DOMID_SELF,
                pad: 0,
                index: HVM_PARAM_CALLBACK_IRQ,
                value: 2 << 56 | u64::from(vector),
            };
            assert_eq!(guest.with(__HYPERVISOR_hvm_op, HVMOP_set_param, param).0, 0);
            guest.runner.domain.callback.vector()
        });
        assert_eq!(told, Some(vector));
    }
}

/// The state that vCPU 1 is in, from the CPU that has it.
fn state_of(guest: &Guest, main: &mut CpuMain<FakeVcpu>) -> Box<VcpuState> {
    let vcpu = guest.runner.domain.vcpu(1).unwrap();
    let _ = vcpu.take_state();
    let _ = main.step();
    vcpu.take_state().unwrap()
}

#[test]
fn vcpu_starts_with_the_registers_that_it_is_given() {
    let outcome = alike(|guest| {
        let mut main = CpuMain::new(pcpu(), Scheduler::Credit2, fake);
        hand_off::spawn(&guest.runner.domain, 1).unwrap();
        let _ = main.step();
        let regs = VcpuHvmX8632 {
            ebx: 0x1234,
            eip: 0x10_0000,
            cr0: 1,
            limits: [u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0x67],
            ars: [0xC9B, 0xC93, 0xC93, 0xC93, 0x8B],
            ..VcpuHvmX8632::default()
        };
        let mut context = VcpuHvmContext {
            mode: VCPU_HVM_MODE_32B,
            pad: 1,
            cpu_regs: [0; 15],
        };
        regs.write_to_prefix(context.cpu_regs.as_mut_bytes())
            .unwrap();
        let bad = guest.of_vcpu(VCPUOP_initialise, 1, context).0;
        let early = guest.call(__HYPERVISOR_vcpu_op, [VCPUOP_up.into(), 1, 0, 0, 0]);
        context.pad = 0;
        let good = guest.of_vcpu(VCPUOP_initialise, 1, context).0;
        let again = guest.of_vcpu(VCPUOP_initialise, 1, context).0;
        let running = guest.of_vcpu(VCPUOP_initialise, 0, context).0;
        let down = state_of(guest, &mut main);
        let up = guest.call(__HYPERVISOR_vcpu_op, [VCPUOP_up.into(), 1, 0, 0, 0]);
        let after = state_of(guest, &mut main);
        let domain = guest.runner.domain.clone();
        let mut hw = FakeVcpu::default();
        while destroy::step(&domain, &mut hw) != Progress::Done {
            let _ = main.step();
        }
        (
            [bad, early, good, again, running, up],
            (down.is_up, after.is_up),
            (after.system.rip, after.system.cr0, after.regs.rbx()),
        )
    });
    let [einval, eexist] = [Errno::EINVAL, Errno::EEXIST].map(refused);
    assert_eq!(outcome.0[..3], [einval, einval, 0]);
    assert_eq!((outcome.0[3], outcome.0[5]), (eexist, 0));
    assert_eq!(outcome.1, (false, true));
    assert_eq!(outcome.2, (0x10_0000, 0x11, 0x1234));
}
