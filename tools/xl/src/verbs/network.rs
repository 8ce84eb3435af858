//! `xl network-attach`, `xl network-list`, `xl network-detach`.

use clap::Parser;
use serde::Serialize;
use toolstack::config::{Mac, UnknownParameter, VifConfig, parse_vif, vif_json};
use toolstack::devices::{DeviceInfo, Force, Kind};
use toolstack::domain::DomainInfo;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::table::Verb;

/// Give a running domain a network card
#[derive(Debug, Parser)]
pub struct NetworkAttach {
    /// Domain: name, id or UUID
    domain: String,
    /// As in a configuration's vif: mac=…, bridge=…, rate=…
    spec: Vec<String>,
}

/// Show the network cards of domains
#[derive(Debug, Parser)]
pub struct NetworkList {
    /// Domains: names, ids or UUIDs
    #[arg(required = true)]
    domains: Vec<String>,
}

/// Take a network card from a running domain
#[derive(Debug, Parser)]
pub struct NetworkDetach {
    /// Take it even if the guest does not let go
    #[arg(short, long)]
    force: bool,
    /// Domain: name, id or UUID
    domain: String,
    /// Card's number (Idx of xl network-list) or MAC address
    device: String,
}

impl Verb for NetworkAttach {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        let read = parse_vif(&self.spec.join(","), UnknownParameter::Refused, |text| {
            output::note(&format!("xl: warning: {text}"))
        });
        let mut vif: VifConfig =
            read.map_err(|error| Failure::new(format!("xl network-attach: {error}")))?;
        context.host_telling(false)?.vif.apply(&mut vif);
        if context.globals.dry_run {
            context.answer("network-attach", &vif)?;
            if context.json() {
                return Ok(());
            }
            return output::print(&format!("vif: {}\n", vif_json(&vif)));
        }
        let toolstack = context.toolstack()?;
        let held = context.lock()?;
        let present = toolstack.devices(domain.domid, Kind::Vif)?;
        let devid = present
            .iter()
            .map(|info| info.device.devid + 1)
            .max()
            .unwrap_or(0);
        vif.mac.get_or_insert_with(Mac::random);
        toolstack.attach_vif(domain.domid, devid, &vif)?;
        let made = serde_json::json!({"domid": domain.domid, "devid": devid, "mac": vif.mac});
        if let Some(mut config) = toolstack.kept_config(domain.domid)? {
            config.vifs.push(vif);
            toolstack.keep_config(&held, domain.domid, &config)?;
        }
        context.answer("network-attach", made)
    }
}

impl Verb for NetworkList {
    fn run(self, context: &Context) -> Outcome {
        let mut cards = Vec::new();
        for domain in context.find_those_there(&self.domains)? {
            cards.extend(context.toolstack()?.devices(domain.domid, Kind::Vif)?);
        }
        if context.json() {
            return output::print_json(
                "network-list",
                cards.iter().map(Json::new).collect::<Vec<_>>(),
            );
        }
        output::print(&text(&cards))
    }
}

impl Verb for NetworkDetach {
    fn run(self, context: &Context) -> Outcome {
        let domain = context.find(&self.domain)?;
        let card = find(context, &domain, &self.device)?;
        let toolstack = context.toolstack()?;
        let force = if self.force {
            Force::AtOnce
        } else {
            Force::AfterAsking
        };
        let detached = toolstack.detach(&card.device, force);
        toolstack.forget_detached(&context.lock()?, &card)?;
        Ok(detached?)
    }
}

fn find(context: &Context, domain: &DomainInfo, wanted: &str) -> Result<DeviceInfo, Failure> {
    let cards = context.toolstack()?.devices(domain.domid, Kind::Vif)?;
    let is_wanted = |card: &DeviceInfo| match wanted.parse::<u32>() {
        Ok(devid) => card.device.devid == devid,
        Err(_) => card
            .mac
            .as_deref()
            .is_some_and(|mac| mac.eq_ignore_ascii_case(wanted)),
    };
    cards
        .into_iter()
        .find(is_wanted)
        .ok_or_else(|| Failure::new(format!("Unknown device {wanted}.")))
}

/// Gives the table; a number that is not known is -1.
pub fn text(cards: &[DeviceInfo]) -> String {
    let mut text = format!(
        "{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<5} {:<30}\n",
        "Idx", "BE", "Mac Addr.", "handle", "state", "evt-ch", "tx-", "rx-ring-ref", "BE-path"
    );
    for card in cards {
        let device = &card.device;
        text.push_str(&format!(
            "{:<3} {:<2} {:<17}{:>6} {:>5} {:>6} {:>5}/{:<11} {:<30}\n",
            device.devid,
            device.backend,
            card.mac.as_deref().unwrap_or("00:00:00:00:00:00"),
            device.devid,
            card.state as u8,
            or_unknown(card.event_channel),
            or_unknown(card.ring_refs.first().copied()),
            or_unknown(card.ring_refs.get(1).copied()),
            device.backend_path(),
        ));
    }
    text
}

/// Gives a number as xl shows it: -1 where the frontend has not told it.
pub fn or_unknown(number: Option<u32>) -> i64 {
    number.map_or(-1, i64::from)
}

#[derive(Serialize)]
struct Json<'a> {
    domid: u16,
    devid: u32,
    backend_domid: u16,
    backend_path: String,
    mac: Option<&'a str>,
    interface: Option<&'a str>,
    state: u8,
    event_channel: Option<u32>,
    ring_refs: &'a [u32],
}

impl<'a> Json<'a> {
    fn new(card: &'a DeviceInfo) -> Self {
        Self {
            domid: card.device.frontend,
            devid: card.device.devid,
            backend_domid: card.device.backend,
            backend_path: card.device.backend_path(),
            mac: card.mac.as_deref(),
            interface: card.name.as_deref(),
            state: card.state as u8,
            event_channel: card.event_channel,
            ring_refs: &card.ring_refs,
        }
    }
}
