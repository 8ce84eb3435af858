//! Two-level event channels: ports, masks, upcalls.

use guest_abi::Errno::{EINVAL, ENOENT, ENOSPC};
use guest_abi::event_channel::{
    EVTCHNOP_alloc_unbound, EVTCHNOP_bind_ipi, EVTCHNOP_bind_vcpu, EVTCHNOP_status,
    EVTCHNSTAT_closed, EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi, EVTCHNSTAT_unbound, EVTCHNSTAT_virq,
    EvtchnAllocUnbound, EvtchnBindIpi, EvtchnBindVcpu, EvtchnStatus,
};
use guest_abi::sched::{SCHEDOP_poll, SchedPoll};
use guest_abi::xen::{DOMID_SELF, VIRQ_DEBUG};
use guest_rt::hypercall::{event_channel, refused, sched};
use guest_rt::insn::{cli, sti};
use guest_rt::{Stop, Test, Verdict, check, check_eq, event, time};

pub(crate) static TESTS: &[Test] = &[
    Test::new("event_setup", setup),
    Test::new("event_send_to_unmasked_port_upcalls", unmasked),
    Test::new(
        "event_send_to_masked_port_sets_pending_without_upcall",
        masked,
    ),
    Test::new("event_unmask_of_pending_port_upcalls", unmask_pending),
    Test::new("event_unmask_of_idle_port_does_not_upcall", unmask_idle),
    Test::new("event_upcall_waits_for_interrupts", waits),
    Test::new("event_sends_to_a_pending_port_coalesce", coalesce),
    Test::new("event_many_ports_in_one_upcall", many),
    Test::new("event_close_clears_pending", close_clears),
    Test::new("event_status_of_each_kind", status),
    Test::new("event_interdomain_loopback", loopback),
    Test::new("event_send_to_unbound_port_is_dropped", unbound),
    Test::new("event_bind_vcpu_rules", bind_vcpu),
    Test::new("event_ports_run_out_with_enospc", exhaust),
    Test::new("event_poll_sees_masked_pending_port", poll_pending),
    Test::new("event_poll_times_out", poll_timeout),
    Test::new("event_storm", storm),
    Test::new("event_vcpu_info_can_move_once", move_vcpu_info),
];

fn setup() -> Verdict {
    event::setup()
}

/// A fresh unmasked IPI port, the log empty.
fn fresh() -> Result<u32, Stop> {
    event::setup()?;
    let port = event::bind_ipi()?;
    check_eq!(event::unmask(port), 0, "unmask");
    event::clear_log();
    Ok(port)
}

fn open() {
    sti();
    cli();
}

fn unmasked() -> Verdict {
    let port = fresh()?;
    sti();
    let result = event::send(port);
    cli();
    check_eq!(result, 0, "send");
    check_eq!(
        (event::logged(), event::log_entry(0)),
        (1, port),
        "events taken"
    );
    check!(!event::upcall_pending(), "upcall_pending is still set");
    check_eq!(event::close(port), 0, "close");
    Ok(())
}

fn masked() -> Verdict {
    let port = fresh()?;
    event::mask(port);
    let before = event::upcalls();
    sti();
    let result = event::send(port);
    cli();
    check_eq!(result, 0, "send");
    check!(event::is_pending(port), "the pending bit is clear");
    check_eq!(event::upcalls(), before, "upcalls");
    check!(!event::upcall_pending(), "upcall_pending is set");
    check_eq!(event::pending_sel(), 0, "pending_sel");
    check_eq!(event::close(port), 0, "close");
    Ok(())
}

fn unmask_pending() -> Verdict {
    let port = fresh()?;
    event::mask(port);
    check_eq!(event::send(port), 0, "send");
    sti();
    let result = event::unmask(port);
    cli();
    check_eq!(result, 0, "unmask");
    check!(!event::is_masked(port), "the mask bit is still set");
    check_eq!(
        (event::logged(), event::log_entry(0)),
        (1, port),
        "events taken"
    );
    check_eq!(event::close(port), 0, "close");
    Ok(())
}

fn unmask_idle() -> Verdict {
    let port = fresh()?;
    event::mask(port);
    let before = event::upcalls();
    sti();
    let result = event::unmask(port);
    cli();
    check_eq!(result, 0, "unmask");
    check_eq!(event::upcalls(), before, "upcalls");
    check_eq!(event::close(port), 0, "close");
    Ok(())
}

fn waits() -> Verdict {
    let port = fresh()?;
    check_eq!(event::send(port), 0, "send");
    let _ = guest_rt::insn::cpuid(0, 0);
    check_eq!(event::logged(), 0, "events taken with IF clear");
    check!(event::upcall_pending(), "upcall_pending is clear");
    check_eq!(
        event::pending_sel() >> (port / 64) & 1,
        1,
        "bit of pending_sel"
    );
    open();
    check_eq!(event::times_logged(port), 1, "events taken once IF is set");
    check_eq!(event::close(port), 0, "close");
    Ok(())
}

fn coalesce() -> Verdict {
    let port = fresh()?;
    for _ in 0..5 {
        check_eq!(event::send(port), 0, "send");
    }
    let before = event::upcalls();
    open();
    check_eq!(event::upcalls(), before + 1, "upcalls");
    check_eq!(event::logged(), 1, "events taken");
    check_eq!(event::close(port), 0, "close");
    Ok(())
}

fn many() -> Verdict {
    event::setup()?;
    let mut ports = [0u32; 40];
    for port in &mut ports {
        *port = fresh()?;
    }
    for &port in &ports {
        check_eq!(event::send(port), 0, "send");
    }
    open();
    check_eq!(event::logged(), ports.len(), "events taken");
    for &port in &ports {
        check_eq!(event::times_logged(port), 1, "times port {port} was taken");
        check_eq!(event::close(port), 0, "close");
    }
    Ok(())
}

fn close_clears() -> Verdict {
    let port = fresh()?;
    event::mask(port);
    check_eq!(event::send(port), 0, "send");
    check_eq!(event::close(port), 0, "close");
    check!(
        !event::is_pending(port),
        "the pending bit outlives the port"
    );
    check_eq!(
        event::send(port),
        refused(EINVAL),
        "send to the closed port"
    );
    Ok(())
}

fn status_of(port: u32) -> Result<EvtchnStatus, Stop> {
    let (result, status) = event_channel(
        EVTCHNOP_status,
        EvtchnStatus {
            dom: DOMID_SELF,
            port,
            ..Default::default()
        },
    );
    check_eq!(result, 0, "status of port {port}");
    Ok(status)
}

fn status() -> Verdict {
    event::setup()?;
    let ipi = event::bind_ipi()?;
    check_eq!(
        status_of(ipi)?.status,
        EVTCHNSTAT_ipi,
        "status of an IPI port"
    );
    check_eq!(event::close(ipi), 0, "close");
    check_eq!(
        status_of(ipi)?.status,
        EVTCHNSTAT_closed,
        "status of a closed port"
    );
    let (result, virq) = event::bind_virq(VIRQ_DEBUG);
    check_eq!(result, 0, "bind_virq DEBUG");
    let status = status_of(virq)?;
    check_eq!(
        (status.status, status.u, status.vcpu),
        (EVTCHNSTAT_virq, VIRQ_DEBUG, 0),
        "status of a VIRQ port"
    );
    check_eq!(event::close(virq), 0, "close");
    let (a, b) = event::loopback()?;
    let status = status_of(a)?;
    check_eq!(
        (status.status, status.interdomain_port),
        (EVTCHNSTAT_interdomain, b),
        "status of a connected port"
    );
    check_eq!(event::close(b), 0, "close");
    check_eq!(
        status_of(a)?.status,
        EVTCHNSTAT_unbound,
        "status once the peer closed"
    );
    check_eq!(event::close(a), 0, "close");
    Ok(())
}

fn loopback() -> Verdict {
    event::setup()?;
    let (a, b) = event::loopback()?;
    check!(a != b, "both ends are port {a}");
    check!(
        event::take_pending(b),
        "the binding end is not pending at once"
    );
    check_eq!(event::unmask(a), 0, "unmask");
    check_eq!(event::unmask(b), 0, "unmask");
    event::clear_log();
    event::clear_upcall();
    check_eq!(event::send(a), 0, "send on the first");
    open();
    check_eq!(
        (event::logged(), event::log_entry(0)),
        (1, b),
        "event at the second"
    );
    check_eq!(event::send(b), 0, "send on the second");
    open();
    check_eq!(
        (event::logged(), event::log_entry(1)),
        (2, a),
        "event at the first"
    );
    check_eq!(event::close(a), 0, "close");
    check_eq!(event::send(b), 0, "send on the end left over");
    check_eq!(event::close(b), 0, "close");
    Ok(())
}

fn unbound() -> Verdict {
    event::setup()?;
    let arg = EvtchnAllocUnbound {
        dom: DOMID_SELF,
        remote_dom: DOMID_SELF,
        port: 0,
    };
    let (result, arg) = event_channel(EVTCHNOP_alloc_unbound, arg);
    check_eq!(result, 0, "alloc_unbound");
    event::mask(arg.port);
    check_eq!(event::send(arg.port), 0, "send");
    check!(!event::is_pending(arg.port), "the port became pending");
    check_eq!(event::close(arg.port), 0, "close");
    Ok(())
}

fn bind_vcpu() -> Verdict {
    event::setup()?;
    let (a, b) = event::loopback()?;
    let bind = |port, vcpu| event_channel(EVTCHNOP_bind_vcpu, EvtchnBindVcpu { port, vcpu }).0;
    check_eq!(bind(a, 0), 0, "bind_vcpu to vCPU 0");
    check_eq!(bind(a, 8192), refused(ENOENT), "bind_vcpu to no vCPU");
    check_eq!(bind(4095, 0), refused(EINVAL), "bind_vcpu of a closed port");
    check_eq!(event::close(a), 0, "close");
    check_eq!(event::close(b), 0, "close");
    Ok(())
}

fn exhaust() -> Verdict {
    event::setup()?;
    let mut count = 0u32;
    let refusal = loop {
        let (result, arg) = event_channel(EVTCHNOP_bind_ipi, EvtchnBindIpi { vcpu: 0, port: 0 });
        if result != 0 {
            break result;
        }
        event::mask(arg.port);
        count += 1;
        check!(count < 4096, "more than 4095 ports");
    };
    (1..4096).for_each(|port| {
        if status_of(port).is_ok_and(|status| status.status == EVTCHNSTAT_ipi) {
            let _ = event::close(port);
        }
    });
    check_eq!(refusal, refused(ENOSPC), "bind_ipi with none left");
    check!(count > 1000, "only {count} ports");
    let again = event::bind_ipi()?;
    check_eq!(event::close(again), 0, "close");
    Ok(())
}

fn poll(ports: &[u32], timeout: u64) -> i64 {
    let ports = (ports.as_ptr() as u64, ports.len() as u32);
    sched(
        SCHEDOP_poll,
        SchedPoll {
            ports: ports.0,
            nr_ports: ports.1,
            _pad: 0,
            timeout,
        },
    )
}

fn poll_pending() -> Verdict {
    let port = fresh()?;
    event::mask(port);
    check_eq!(event::send(port), 0, "send");
    let start = time::now_ns();
    check_eq!(poll(&[port], start + 1000 * time::MS), 0, "poll");
    check!(
        time::now_ns() - start < 100 * time::MS,
        "poll of a pending port slept"
    );
    check_eq!(event::close(port), 0, "close");
    check_eq!(poll(&[0xFFFF], start), refused(EINVAL), "poll of no port");
    Ok(())
}

fn poll_timeout() -> Verdict {
    let port = fresh()?;
    event::mask(port);
    let start = time::now_ns();
    check_eq!(poll(&[port], start + 2 * time::MS), 0, "poll");
    let slept = time::now_ns() - start;
    check!(
        (2 * time::MS..20 * time::MS).contains(&slept),
        "poll slept {slept} ns, asked for 2 ms"
    );
    check_eq!(event::close(port), 0, "close");
    let too_many = SchedPoll {
        ports: 0,
        nr_ports: 129,
        _pad: 0,
        timeout: 0,
    };
    check_eq!(
        sched(SCHEDOP_poll, too_many),
        refused(EINVAL),
        "poll of 129 ports"
    );
    Ok(())
}

fn storm() -> Verdict {
    let port = fresh()?;
    sti();
    for _ in 0..10_000 {
        let _ = event::send(port);
    }
    cli();
    check_eq!(event::logged(), 10_000, "events taken, one a send");
    check_eq!(event::close(port), 0, "close");
    Ok(())
}

fn move_vcpu_info() -> Verdict {
    let port = fresh()?;
    let clock = time::parameters();
    check_eq!(event::move_vcpu_info(), 0, "register_vcpu_info");
    check_eq!(event::move_vcpu_info(), refused(EINVAL), "a second time");
    check_eq!(
        time::parameters().tsc_to_system_mul,
        clock.tsc_to_system_mul,
        "the clock in the new place"
    );
    open();
    let before = event::upcalls();
    check_eq!(event::send(port), 0, "send");
    check!(
        event::upcall_pending(),
        "upcall_pending is clear in the new place"
    );
    open();
    check_eq!(event::upcalls(), before + 1, "upcalls");
    check_eq!(event::times_logged(port), 1, "events taken");
    check_eq!(event::close(port), 0, "close");
    Ok(())
}
