//! Names of virtual devices (xen-vbd-interface(7)) and their numbers.

/// Gives the number of a virtual device (xen-vbd-interface(7)): `xvda` 51712, `hda` 768, `sda` 2048, `d0p1` 51713, or
/// a number itself.
pub fn vdev_number(vdev: &str) -> Option<u32> {
    if let Ok(number) = vdev.parse::<u32>() {
        return Some(number);
    }
    if let Some(hex) = vdev.strip_prefix("0x") {
        return u32::from_str_radix(hex, 16).ok();
    }
    if let Some((disk, partition)) = plain(vdev) {
        return xvd(disk, partition);
    }
    let (base, rest) = vdev.split_at_checked(2)?;
    let (base, rest) = if base == "xv" {
        (base, rest.strip_prefix('d')?)
    } else {
        (base, rest)
    };
    let (disk, partition) = letters(rest)?;
    match base {
        "xv" => xvd(disk, partition),
        "sd" if disk < 16 && partition < 16 => Some((8 << 8) | (disk << 4) | partition),
        "hd" if disk < 4 && partition < 64 => {
            let major = if disk < 2 { 3 } else { 22 };
            Some((major << 8) | ((disk & 1) << 6) | partition)
        }
        _ => None,
    }
}

fn xvd(disk: u32, partition: u32) -> Option<u32> {
    if disk < 16 && partition < 16 {
        return Some((202 << 8) | (disk << 4) | partition);
    }
    (disk < 1 << 20 && partition < 256).then_some((1 << 28) | (disk << 8) | partition)
}

fn plain(vdev: &str) -> Option<(u32, u32)> {
    let rest = vdev.strip_prefix('d')?;
    match rest.split_once('p') {
        Some((disk, partition)) => Some((disk.parse().ok()?, partition.parse().ok()?)),
        None => Some((rest.parse().ok()?, 0)),
    }
}

/// Reads `a`, `b3`, `aa12`: disk and partition.
fn letters(text: &str) -> Option<(u32, u32)> {
    let end = text
        .find(|c: char| !c.is_ascii_lowercase())
        .unwrap_or(text.len());
    let (name, digits) = text.split_at(end);
    if name.is_empty() || name.len() > 4 {
        return None;
    }
    let disk = name
        .bytes()
        .fold(0, |n, c| n * 26 + u32::from(c - b'a') + 1)
        - 1;
    let partition = if digits.is_empty() {
        0
    } else {
        digits.parse().ok().filter(|p| *p > 0)?
    };
    Some((disk, partition))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_devices_have_their_numbers() {
        for (vdev, number) in [
            ("xvda", Some(51712)),
            ("xvda1", Some(51713)),
            ("xvdb", Some(51728)),
            ("xvdp15", Some(51967)),
            ("xvdq", Some((1 << 28) | (16 << 8))),
            ("xvdaa3", Some((1 << 28) | (26 << 8) | 3)),
            ("d1p2", Some(51730)),
            ("d0", Some(51712)),
            ("hda", Some(768)),
            ("hdd2", Some(5698)),
            ("sdb1", Some(2065)),
            ("51712", Some(51712)),
            ("0xca00", Some(51712)),
            ("xvd", None),
            ("xvda0", None),
            ("hde", None),
            ("foo", None),
            ("", None),
        ] {
            assert_eq!(vdev_number(vdev), number, "{vdev}");
        }
    }
}
