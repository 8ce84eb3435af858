//! A soft reset: the domain stays, with its memory, its id and its UUID, and goes on in a kernel that it loaded itself
//! (kexec, or kdump after a crash); what connects it with others is made anew, as libxl's `do_domain_soft_reset` does.
//!
//! Its devices go before the hypervisor closes its ports, so that no backend still has its pages; its console stays the
//! one that xenconsoled has, and the grants of its rings those that were made with it.

use std::mem::offset_of;

use guest_abi::io::xs_wire::XenstoreDomainInterface;

use super::{Plan, Timings, Undo};
use crate::config::DomainConfig;
use crate::image::layout::STORE_GFN;
use crate::{Lock, Result, Toolstack};

/// The four counters of the xenstore ring.
const COUNTERS: [usize; 4] = [
    offset_of!(XenstoreDomainInterface, req_cons),
    offset_of!(XenstoreDomainInterface, req_prod),
    offset_of!(XenstoreDomainInterface, rsp_cons),
    offset_of!(XenstoreDomainInterface, rsp_prod),
];

impl Toolstack {
    /// Lets a domain that asked for a soft reset go on. Where a step fails it is destroyed: nobody could reach it.
    ///
    /// # Errors
    /// Names the step that failed and why.
    pub(crate) fn soft_reset(&self, held: &Lock, domid: u16, config: &DomainConfig) -> Result<()> {
        let mut plan = Plan {
            ts: self,
            held,
            tell: &mut |_| {},
            config: config.clone(),
            undo: Undo::default(),
            timings: Timings::default(),
        };
        let Err(error) = plan.reset(domid) else {
            return Ok(());
        };
        let again = error.is_lost_store().then(|| self.reconnected());
        let over = match &again {
            Some(Ok(again)) => again,
            _ => self,
        };
        let error = match over.destroy(domid) {
            Ok(()) => error,
            Err(left) => error.during(format!("something is left behind ({})", left.chain())),
        };
        Err(error.during(format!("soft reset of domain {domid}")))
    }
}

impl Plan<'_> {
    /// All steps in order.
    fn reset(&mut self, domid: u16) -> Result<()> {
        if let Some(kib) = self.ts.memory_node(domid, "static-max")? {
            self.config.max_memory_kib = kib;
        }
        self.step("pausing it", |r| Ok(r.ts.hyper.pause_domain(domid)?))?;
        self.step("taking its devices away", |r| r.ts.detach_all(domid))?;
        self.step("forgetting its old kernel", |r| {
            Ok(r.ts.hyper.soft_reset_domain(domid)?)
        })?;
        let ports = self.step("making event channels", |r| r.make_ports(domid))?;
        self.step("emptying its xenstore ring", |r| r.empty_store_ring(domid))?;
        self.step("setting its parameters", |r| {
            r.set_ring_params(domid, ports)
        })?;
        self.step("publishing it in xenstore", |r| r.publish(domid, ports))?;
        self.step("introducing it to xenstored", |r| r.introduce(domid, ports))?;
        self.step("attaching its disks", |r| r.attach_disks(domid))?;
        self.step("attaching its network cards", |r| r.attach_vifs(domid))?;
        self.step("keeping its configuration", |r| r.keep(domid))?;
        self.step("letting it run", |r| {
            Ok(r.ts.hyper.unpause_domain(domid)?)
        })
    }

    /// A request that the old kernel began would be the beginning of the new one's first.
    fn empty_store_ring(&self, domid: u16) -> Result<()> {
        let ring = self.ts.hyper.map_foreign(domid, &[STORE_GFN], true)?;
        for counter in COUNTERS {
            ring.write(counter, &0u32.to_ne_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use guest_abi::hvm::params::HVM_PARAM_STORE_EVTCHN;
    use guest_abi::sched::SHUTDOWN_soft_reset;

    use xenstore::Ops;

    use crate::testing::Bench;

    #[test]
    fn a_domain_goes_on_with_its_id_its_memory_and_other_ports() {
        let bench = Bench::new();
        let created = bench.create(&bench.config("web")).unwrap();
        let domid = created.domid;
        let port =
            |bench: &Bench| bench.host.state().domains[&domid].params[&HVM_PARAM_STORE_EVTCHN];
        let before = port(&bench);
        let frames = bench.host.state().domains[&domid].populated.clone();
        // what a guest kept for itself is of the old kernel's
        let stale = format!("/local/domain/{domid}/data/old");
        bench.ts.store.write(&stale, "1").unwrap();
        bench.host.state().domains.get_mut(&domid).unwrap().shutdown = Some(SHUTDOWN_soft_reset);
        bench
            .ts
            .soft_reset(&bench.lock(), domid, &created.config)
            .unwrap();
        let state = bench.host.state();
        let domain = &state.domains[&domid];
        assert!(domain.running && domain.shutdown.is_none());
        assert_eq!(domain.populated, frames);
        drop(state);
        assert_ne!(port(&bench), before);
        let node = bench
            .store
            .get(&format!("/local/domain/{domid}/store/port"));
        assert_eq!(node.unwrap(), port(&bench).to_string());
        assert_eq!(bench.store.get(&stale), None);
        assert!(bench.store.state().introduced.contains(&domid));
    }

    #[test]
    fn whichever_call_fails_a_domain_that_nobody_can_reach_is_destroyed() {
        for call in 0.. {
            let bench = Bench::new();
            let created = bench.create(&bench.config("web")).unwrap();
            let domid = created.domid;
            {
                let mut state = bench.host.state();
                state.domains.get_mut(&domid).unwrap().shutdown = Some(SHUTDOWN_soft_reset);
                state.fail_at = Some(state.calls.len() + call);
            }
            match bench.ts.soft_reset(&bench.lock(), domid, &created.config) {
                Err(error) => {
                    assert!(
                        error.chain().starts_with("soft reset of domain "),
                        "{}",
                        error.chain()
                    );
                    assert_eq!(bench.host.state().domains.len(), 1, "call {call}");
                    assert!(bench.ts.find("web").is_err());
                }
                Ok(()) => {
                    assert!(call > 6, "only {call} calls were made");
                    break;
                }
            }
        }
    }
}
