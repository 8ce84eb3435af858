//! What exits: every intercept that the manual defines up to those that no CPU without nested SEV has, asked for or not
//! and why.
//!
//! Source: AMD APM vol. 2, appendix "Layout of VMCB"; "Intercept Operation".

/// An intercept.
struct Row {
    /// Its word among `Vmcb::intercepts`, and its bit in it.
    place: (usize, u32),
    is_on: bool,
    /// What it is, and why it is asked for or not.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for who reads the table, and its test")
    )]
    what: &'static str,
}

const fn on(word: usize, bit: u32, what: &'static str) -> Row {
    Row {
        place: (word, bit),
        is_on: true,
        what,
    }
}

const fn off(word: usize, bit: u32, what: &'static str) -> Row {
    Row {
        place: (word, bit),
        is_on: false,
        what,
    }
}

const TABLE: &[Row] = &[
    on(0, 0, "INTR: external interrupts are the host's"),
    on(0, 1, "NMI: the host's"),
    on(0, 2, "SMI: it is taken with the host's state in the CPU"),
    on(0, 3, "INIT: it would reset the CPU under us"),
    off(0, 4, "VINTR: while a window is waited for"),
    off(0, 5, "selective CR0 writes: CR0 is the guest's own"),
    off(0, 6, "IDTR reads: the guest's own"),
    off(0, 7, "GDTR reads: the guest's own"),
    off(0, 8, "LDTR reads: the guest's own"),
    off(0, 9, "TR reads: the guest's own"),
    off(0, 10, "IDTR writes: the guest's own"),
    off(0, 11, "GDTR writes: the guest's own"),
    off(0, 12, "LDTR writes: the guest's own"),
    off(0, 13, "TR writes: the guest's own"),
    off(0, 14, "RDTSC: where the TSC is emulated"),
    on(0, 15, "RDPMC: guests are offered no counters"),
    off(0, 16, "PUSHF: IF is virtual already"),
    off(0, 17, "POPF: IF is virtual already"),
    on(0, 18, "CPUID: the policy answers"),
    on(0, 19, "RSM: there is no SMM for a guest to leave"),
    off(0, 20, "IRET: while an NMI is served"),
    off(0, 21, "INTn: the guest's own"),
    on(0, 22, "INVD: it would drop others' writes"),
    off(0, 23, "PAUSE: with a filter only"),
    on(0, 24, "HLT: others run meanwhile"),
    off(0, 25, "INVLPG: with nested paging the guest's own"),
    on(0, 26, "INVLPGA: it reaches other guests' ASIDs"),
    on(0, 27, "ports, by the map"),
    on(0, 28, "MSRs, by the map"),
    on(0, 29, "task switches: nothing else leaves them in order"),
    off(
        0,
        30,
        "FERR: the guest stops until an interrupt, which exits",
    ),
    on(
        0,
        31,
        "shutdown: the guest's triple fault is not the host's",
    ),
    on(1, 0, "VMRUN: guests are not offered SVM, and VMRUN insists"),
    on(1, 1, "VMMCALL: the hypercall"),
    on(1, 2, "VMLOAD: guests are not offered SVM"),
    on(1, 3, "VMSAVE: guests are not offered SVM"),
    on(1, 4, "STGI: guests are not offered SVM"),
    on(1, 5, "CLGI: guests are not offered SVM"),
    on(1, 6, "SKINIT: it resets the machine"),
    off(1, 7, "RDTSCP: where the TSC is emulated"),
    off(1, 8, "ICEBP: the guest's own"),
    on(
        1,
        9,
        "WBINVD: it takes long, and a guest without devices needs none",
    ),
    on(1, 10, "MONITOR: guests are not offered it"),
    on(1, 11, "MWAIT: guests are not offered it"),
    on(1, 12, "armed MWAIT: guests are not offered it"),
    on(1, 13, "XSETBV: XCR0 is checked"),
    on(1, 14, "RDPRU: guests are not offered it"),
    off(1, 15, "after EFER writes: they exit by the map"),
    on(2, 0, "INVLPGB: it reaches other CPUs"),
    on(2, 1, "INVLPGB that is not allowed"),
    off(2, 2, "INVPCID: the guest's own"),
    on(2, 3, "MCOMMIT: guests are not offered it"),
    on(2, 4, "TLBSYNC: guests are not offered it"),
];

/// The words of the intercepts that are always on.
pub(super) const ALWAYS: [u32; 3] = always();

const fn always() -> [u32; 3] {
    let mut words = [0; 3];
    let mut index = 0;
    while index < TABLE.len() {
        let (word, bit) = TABLE[index].place;
        if TABLE[index].is_on {
            words[word] |= 1 << bit;
        }
        index += 1;
    }
    words
}

/// Word 0: virtual interrupts have become deliverable.
pub(super) const VINTR: u32 = 1 << 4;
/// Word 0: RDTSC.
pub(super) const RDTSC: u32 = 1 << 14;
/// Word 0: IRET.
pub(super) const IRET: u32 = 1 << 20;
/// Word 0: PAUSE.
pub(super) const PAUSE: u32 = 1 << 23;
/// Word 1: RDTSCP.
pub(super) const RDTSCP: u32 = 1 << 7;

/// CR4 is written: what the guest is not offered is not masked.
pub(super) const CR4_WRITE: u32 = 1 << (16 + 4);
/// CR8 is written: while an interrupt waits for the task priority to fall.
pub(super) const CR8_WRITE: u32 = 1 << (16 + 8);

/// #DB and #AC, which a guest could make deliver each other without end inside the CPU (the run loop ends what
/// goes on outside), and #MC, which is the host's.
pub(super) const EXCEPTIONS: u32 = (1 << 1) | (1 << 17) | (1 << 18);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_has_one_row_and_each_says_why() {
        for (word, last) in [(0, 31), (1, 15), (2, 4)] {
            for bit in 0..=last {
                let rows = TABLE.iter().filter(|row| row.place == (word, bit));
                assert_eq!(rows.count(), 1, "word {word} bit {bit}");
            }
        }
        assert!(TABLE.iter().all(|row| row.what.len() > 12));
    }

    #[test]
    fn what_is_switched_on_and_off_at_run_time_is_off_at_first() {
        assert_eq!(ALWAYS[0] & (VINTR | RDTSC | IRET | PAUSE), 0);
        assert_eq!(ALWAYS[1] & RDTSCP, 0);
    }
}
