//! FIFO event channels, and the way back to two-level.

use guest_abi::Errno::EINVAL;
use guest_abi::event_channel::{
    EVTCHNOP_expand_array, EVTCHNOP_init_control, EVTCHNOP_set_priority, EvtchnExpandArray,
    EvtchnInitControl, EvtchnSetPriority,
};
use guest_rt::hypercall::{event_channel, refused};
use guest_rt::insn::{cli, sti};
use guest_rt::{Stop, Test, Verdict, check, check_eq, event, fifo};

pub(crate) static TESTS: &[Test] = &[
    Test::new("fifo_init_control_arguments", arguments),
    Test::new("fifo_event_upcalls", upcalls),
    Test::new("fifo_masked_event_waits_for_unmask", masked),
    Test::new("fifo_same_priority_keeps_order", same_priority),
    Test::new("fifo_higher_priority_first", priorities),
    Test::new("fifo_set_priority_arguments", priority_arguments),
    Test::new("fifo_storm", storm),
    Test::new("fifo_reset_goes_back_to_two_level", reset),
];

fn begin() -> Verdict {
    event::setup()?;
    fifo::switch_on()?;
    event::clear_log();
    Ok(())
}

fn fresh() -> Result<u32, Stop> {
    let port = event::bind_ipi()?;
    check_eq!(event::unmask(port), 0, "unmask");
    Ok(port)
}

fn open() {
    sti();
    cli();
}

fn set_priority(port: u32, priority: u32) -> i64 {
    event_channel(EVTCHNOP_set_priority, EvtchnSetPriority { port, priority }).0
}

fn arguments() -> Verdict {
    event::setup()?;
    let init = |offset, vcpu| {
        let control_gfn = event::shared_info_address() >> 12;
        event_channel(
            EVTCHNOP_init_control,
            EvtchnInitControl {
                control_gfn,
                offset,
                vcpu,
                ..Default::default()
            },
        )
        .0
    };
    for (offset, vcpu, what) in [
        (4, 0, "offset not aligned"),
        (4096 - 64, 0, "block crossing its page"),
        (0, 8192, "no vCPU"),
    ] {
        check!(
            init(offset, vcpu) < 0,
            "init_control, {what}: {}",
            init(offset, vcpu)
        );
    }
    check!(
        event_channel(EVTCHNOP_expand_array, EvtchnExpandArray { array_gfn: 0 }).0 < 0,
        "expand_array before FIFO is on"
    );
    Ok(())
}

fn upcalls() -> Verdict {
    begin()?;
    let port = fresh()?;
    for count in 1..=3 {
        check_eq!(event::send(port), 0, "send");
        check!(
            fifo::is_pending(port) && fifo::is_linked(port),
            "the word is not pending and linked"
        );
        open();
        check_eq!(event::times_logged(port), count, "events taken");
        check!(
            !fifo::is_pending(port) && !fifo::is_linked(port),
            "the word is still pending or linked"
        );
    }
    check_eq!(event::close(port), 0, "close");
    Ok(())
}

fn masked() -> Verdict {
    begin()?;
    let port = fresh()?;
    fifo::mask(port);
    let before = event::upcalls();
    check_eq!(event::send(port), 0, "send");
    open();
    check!(
        fifo::is_pending(port) && !fifo::is_linked(port),
        "want pending, not linked"
    );
    check_eq!(event::upcalls(), before, "upcalls");
    check_eq!(event::unmask(port), 0, "unmask");
    open();
    check_eq!(event::times_logged(port), 1, "events taken after unmask");
    check_eq!(event::close(port), 0, "close");
    Ok(())
}

fn same_priority() -> Verdict {
    begin()?;
    let ports = [fresh()?, fresh()?, fresh()?, fresh()?];
    let order = [2, 0, 3, 1].map(|index| ports[index]);
    for port in order {
        check_eq!(event::send(port), 0, "send");
    }
    open();
    check_eq!(
        core::array::from_fn(event::log_entry),
        order,
        "order of events"
    );
    for port in ports {
        check_eq!(event::close(port), 0, "close");
    }
    Ok(())
}

fn priorities() -> Verdict {
    begin()?;
    let [low, normal, high] = [fresh()?, fresh()?, fresh()?];
    check_eq!(set_priority(low, 15), 0, "set_priority 15");
    check_eq!(set_priority(high, 0), 0, "set_priority 0");
    for port in [low, normal, high] {
        check_eq!(event::send(port), 0, "send");
    }
    open();
    check_eq!(
        core::array::from_fn(event::log_entry),
        [high, normal, low],
        "order of events"
    );
    for port in [low, normal, high] {
        check_eq!(event::close(port), 0, "close");
    }
    Ok(())
}

fn priority_arguments() -> Verdict {
    begin()?;
    let port = fresh()?;
    check_eq!(set_priority(port, 16), refused(EINVAL), "priority 16");
    check_eq!(
        set_priority(u32::MAX, 0),
        refused(EINVAL),
        "priority of no port"
    );
    check_eq!(event::close(port), 0, "close");
    Ok(())
}

fn storm() -> Verdict {
    begin()?;
    let ports = [fresh()?, fresh()?, fresh()?];
    check_eq!(set_priority(ports[2], 3), 0, "set_priority 3");
    for round in 0..3000 {
        event::clear_log();
        for port in ports {
            check_eq!(event::send(port), 0, "send");
        }
        open();
        check_eq!(event::logged(), 3, "events taken in round {round}");
    }
    for port in ports {
        check_eq!(event::close(port), 0, "close");
    }
    Ok(())
}

fn reset() -> Verdict {
    begin()?;
    let _ = fresh()?;
    fifo::switch_off()?;
    event::clear_log();
    let port = event::bind_ipi()?;
    check_eq!(event::unmask(port), 0, "unmask");
    check_eq!(event::send(port), 0, "send");
    open();
    check_eq!(
        event::times_logged(port),
        1,
        "events taken, two-level again"
    );
    check_eq!(event::close(port), 0, "close");
    Ok(())
}
