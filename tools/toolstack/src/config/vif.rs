//! Network cards (xl-network-configuration(5)): `mac=…,bridge=…,rate=10Mb/s@50ms`.

use super::{Rate, VifConfig};

/// What becomes of a parameter that there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownParameter {
    /// Told of and ignored, as Xen's xl does with those of a domain's configuration.
    Ignored,
    /// Refused, as Xen's xl does with the words of `network-attach`.
    Refused,
}

/// Reads one specification; what is ignored is told to `note`.
///
/// # Errors
/// What is wrong.
pub fn parse_vif(
    spec: &str,
    unknown: UnknownParameter,
    mut note: impl FnMut(String),
) -> Result<VifConfig, String> {
    let mut vif = VifConfig::default();
    for part in spec
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (key, value) = part
            .split_once('=')
            .map_or((part, ""), |(key, value)| (key.trim(), value.trim()));
        if let Some(why) = without_effect(key, value) {
            note(why);
            continue;
        }
        let text = || Some(value.to_owned()).filter(|text| !text.is_empty());
        match key {
            "mac" => {
                let mac: super::Mac = value.parse()?;
                if mac.is_multicast() {
                    return Err(format!(
                        "{mac} is a multicast address: its first byte must be even"
                    ));
                }
                vif.mac = Some(mac);
            }
            "bridge" => vif.bridge = text(),
            "ip" => vif.ip = text(),
            "script" => vif.script = text(),
            "vifname" => vif.vifname = Some(interface_name(value)?),
            "backend" => vif.backend = text(),
            "gatewaydev" | "netdev" => vif.gatewaydev = text(),
            "rate" => vif.rate = Some(parse_rate(value)?),
            "mtu" => vif.mtu = Some(mtu(value)?),
            "untrusted" if !part.contains('=') => vif.untrusted = true,
            "trusted" if !part.contains('=') => vif.untrusted = false,
            "trusted" | "untrusted" => {
                return Err(format!(
                    "{key} takes no value: it stands alone, not as \"{part}\""
                ));
            }
            "type" if value == "vif" => {}
            "type" => {
                return Err(format!(
                    "type={value} needs a device model, which is not supported: type=vif is"
                ));
            }
            _ if unknown == UnknownParameter::Ignored => {
                note(format!("{}: ignored", unknown_parameter(key)));
            }
            _ => return Err(unknown_parameter(key)),
        }
    }
    Ok(vif)
}

/// Why a parameter that xl knows does nothing here; `None` for all others.
fn without_effect(key: &str, value: &str) -> Option<String> {
    match key {
        "model" => Some(format!(
            "model={value} means an emulated card, which a PVH guest has not: ignored"
        )),
        "accel" | "devid" | "vlan" | "hotplug" | "forwarddev" => {
            Some(format!("{key}= has no effect here and is ignored"))
        }
        _ if key.starts_with("colo_") => {
            Some(format!("{key}= is COLO's, which is not supported: ignored"))
        }
        _ => None,
    }
}

fn unknown_parameter(key: &str) -> String {
    const KNOWN: [&str; 12] = [
        "mac",
        "bridge",
        "ip",
        "script",
        "vifname",
        "backend",
        "gatewaydev",
        "rate",
        "mtu",
        "untrusted",
        "trusted",
        "type",
    ];
    let hint = super::nearest(key, KNOWN.into_iter())
        .map_or_else(String::new, |near| format!("; did you mean {near}=?"));
    format!("unknown vif parameter \"{key}\"{hint}")
}

/// Bytes of an interface's name at most: IFNAMSIZ less the terminating zero.
pub(crate) const INTERFACE_NAME_MAX: usize = 15;

fn interface_name(name: &str) -> Result<String, String> {
    let fits = (1..=INTERFACE_NAME_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|c| c.is_ascii_graphic() && c != b'/' && c != b':');
    fits.then(|| name.to_owned())
        .ok_or_else(|| format!("\"{name}\" is no name of an interface: 1 to 15 characters"))
}

fn mtu(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|mtu| (68..=65_535).contains(mtu))
        .ok_or_else(|| format!("mtu is from 68 to 65535, not \"{text}\""))
}

/// Reads a limit: `10Mb/s`, `250KB/s`, `1MB/s@20ms` (units of 1000; an interval of 50 ms if none is given).
///
/// # Errors
/// What is wrong.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("\"{text}\" is no rate: 10Mb/s, 250KB/s or 1MB/s@20ms");
    let (amount, interval) = text
        .split_once('@')
        .map_or((text, "50ms"), |(amount, interval)| (amount, interval));
    let (number, unit) =
        split_number(amount.strip_suffix("/s").ok_or_else(wrong)?).ok_or_else(wrong)?;
    let (prefix, per_byte) = match (unit.strip_suffix('b'), unit.strip_suffix('B')) {
        (Some(prefix), _) => (prefix, 8),
        (None, Some(prefix)) => (prefix, 1),
        (None, None) => return Err(wrong()),
    };
    let scale = match prefix {
        "" => 1,
        "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    let (length, unit) = split_number(interval).ok_or_else(wrong)?;
    let us = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        _ => return Err(wrong()),
    };
    let interval_us = length
        .checked_mul(us)
        .and_then(|n| u32::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(wrong)?;
    let bytes = number
        .checked_mul(scale)
        .map(|bits_or_bytes| bits_or_bytes / per_byte)
        .and_then(|per_second| per_second.checked_mul(u64::from(interval_us)))
        .map(|n| n / 1_000_000)
        .filter(|n| *n > 0)
        .ok_or_else(wrong)?;
    Ok(Rate {
        bytes_per_interval: bytes,
        interval_us,
    })
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_read_with_all_it_may_say() {
        let mut notes = Vec::new();
        let vif = parse_vif(
            "mac=00:16:3e:01:02:03, bridge=xenbr0,ip=10.0.0.2,script=vif-route,vifname=web0,backend=net,rate=10Mb/s,model=e1000,mtu=9000",
            UnknownParameter::Refused,
            |note| notes.push(note),
        )
        .unwrap();
        assert_eq!(vif.mac.unwrap().to_string(), "00:16:3e:01:02:03");
        assert_eq!(
            (vif.bridge.as_deref(), vif.vifname.as_deref(), vif.mtu),
            (Some("xenbr0"), Some("web0"), Some(9000))
        );
        assert_eq!(notes.len(), 1);
        assert_eq!(
            parse_vif("", UnknownParameter::Refused, |_| ()).unwrap(),
            VifConfig::default()
        );
    }

    #[test]
    fn what_newer_cards_may_say_is_noted() {
        let mut notes = Vec::new();
        let spec =
            "vlan=3,hotplug=1,forwarddev=eth0,colo_sock_mirror_id=1,devid=5,accel=1,untrusted";
        let vif = parse_vif(spec, UnknownParameter::Refused, |note| notes.push(note)).unwrap();
        assert!(vif.untrusted && notes.len() == 6, "{notes:?}");
        assert!(
            !parse_vif("untrusted,trusted", UnknownParameter::Refused, |_| ())
                .unwrap()
                .untrusted
        );
    }

    #[test]
    fn rates_are_bytes_an_interval() {
        let rate = |text| {
            parse_rate(text)
                .map(|r| (r.bytes_per_interval, r.interval_us))
                .ok()
        };
        assert_eq!(rate("10Mb/s"), Some((62_500, 50_000)));
        assert_eq!(rate("250KB/s"), Some((12_500, 50_000)));
        assert_eq!(rate("1MB/s@20ms"), Some((20_000, 20_000)));
        assert_eq!(rate("1GB/s@1s"), Some((1_000_000_000, 1_000_000)));
        for bad in [
            "",
            "10",
            "10Mb",
            "10Xb/s",
            "Mb/s",
            "10Mb/s@",
            "10Mb/s@5h",
            "0Mb/s",
            "99999999999Gb/s",
        ] {
            assert_eq!(rate(bad), None, "{bad}");
        }
    }

    #[test]
    fn wrong_cards_say_what_is_wrong() {
        for (spec, what) in [
            ("mac=00:16:3e:01:02", "no MAC address"),
            ("mac=01:00:5e:00:00:01", "multicast"),
            ("brige=x", "did you mean bridge=?"),
            ("type=ioemu", "device model"),
            ("vifname=much-too-long-a-name", "1 to 15"),
            ("mtu=12", "mtu is from"),
            ("untrusted=0", "takes no value"),
            ("trusted=0", "takes no value"),
        ] {
            let error = parse_vif(spec, UnknownParameter::Refused, |_| ()).unwrap_err();
            assert!(error.contains(what), "{spec}: {error}");
        }
    }

    #[test]
    fn an_unknown_parameter_of_a_configuration_is_told_and_ignored() {
        let mut notes = Vec::new();
        let vif = parse_vif(
            "brige=x,mtu=1400,queues",
            UnknownParameter::Ignored,
            |note| {
                notes.push(note);
            },
        );
        let mtu = Some(1400);
        assert_eq!(
            vif,
            Ok(VifConfig {
                mtu,
                ..VifConfig::default()
            })
        );
        assert_eq!(
            notes,
            [
                "unknown vif parameter \"brige\"; did you mean bridge=?: ignored",
                "unknown vif parameter \"queues\": ignored"
            ]
        );
    }
}
