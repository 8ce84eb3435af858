//! vCPUs beside the first, where the guest has any: VCPUOP_initialise, up and down.

use guest_abi::Errno;
use guest_abi::hvm::hvm_vcpu::VcpuHvmContext;
use guest_abi::sched::SCHEDOP_yield;
use guest_abi::vcpu::{VCPUOP_down, VCPUOP_initialise, VCPUOP_is_up, VCPUOP_up};
use guest_abi::xen::__HYPERVISOR_sched_op;
use guest_rt::hypercall::{self, refused};
use guest_rt::others::{self, Begun};
use guest_rt::{Test, Verdict, check, check_eq, skip};

pub(crate) static TESTS: &[Test] = &[
    Test::new("vcpu_begins_in_64_bit_code", wide),
    Test::new("vcpu_begins_in_32_bit_code", narrow),
];

fn need(vcpu: u32) -> Verdict {
    if hypercall::vcpu_plain(VCPUOP_is_up, vcpu) < 0 {
        skip!("no vCPU {vcpu}");
    }
    Ok(())
}

fn wide() -> Verdict {
    need(others::WIDE)?;
    starts_once(others::WIDE, others::wide())
}

fn narrow() -> Verdict {
    need(others::NARROW)?;
    starts_once(others::NARROW, others::narrow())
}

fn starts_once(vcpu: u32, (context, expected): (VcpuHvmContext, Begun)) -> Verdict {
    others::forget();
    let before = others::count();
    let initialise = |context| hypercall::vcpu(VCPUOP_initialise, vcpu, context).0;
    let up = || hypercall::vcpu_plain(VCPUOP_up, vcpu);
    check_eq!(up(), refused(Errno::EINVAL), "up before it has a state");
    let no_mode = VcpuHvmContext { mode: 2, ..context };
    check_eq!(initialise(no_mode), refused(Errno::EINVAL), "no such mode");
    check_eq!(initialise(context), 0, "initialise");
    check_eq!(initialise(context), refused(Errno::EEXIST), "again");
    check_eq!(others::count(), before, "it runs before it is up");
    check_eq!(up(), 0, "up");
    wait_for(vcpu, before + 1)?;
    check_eq!(others::begun(), expected, "what it began with");
    // it has taken itself down, and goes on behind that
    check_eq!(up(), 0, "up again");
    wait_for(vcpu, before + 2)?;
    check_eq!(
        initialise(context),
        refused(Errno::EEXIST),
        "while it is down"
    );
    let nobody = hypercall::vcpu_plain(VCPUOP_down, 9);
    check_eq!(nobody, refused(Errno::ENOENT), "a vCPU that there is not");
    Ok(())
}

/// Until the other vCPU has run that often, and is down.
fn wait_for(vcpu: u32, count: u32) -> Verdict {
    for _ in 0..1000 {
        let is_up = hypercall::vcpu_plain(VCPUOP_is_up, vcpu) != 0;
        if others::count() >= count && !is_up {
            break;
        }
        let _ = hypercall::plain(__HYPERVISOR_sched_op, [u64::from(SCHEDOP_yield), 0]);
    }
    check_eq!(others::count(), count, "how often vCPU {vcpu} ran");
    check!(
        hypercall::vcpu_plain(VCPUOP_is_up, vcpu) == 0,
        "vCPU {vcpu} is not down"
    );
    Ok(())
}
