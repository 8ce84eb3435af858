//! Every exit code that the manual defines, but for those of encrypted guests alone: handled, answered with #UD, or why
//! it cannot be.
//!
//! Source: AMD APM vol. 2, appendix "SVM Intercept Exit Codes".

pub(super) use super::super::answers::Answer;
use super::super::answers::{self, answers};
use Answer::{Handled, Never, Undefined};

const OFF: &str = "the intercept is off";
const SEV: &str = "no guest's memory is encrypted";

answers! {
    const CODES;
    CR_READ = 0x00 to 0x0F, "CR read", Never(OFF);
    CR0_WRITE = 0x10 to 0x13, "write of CR0 to CR3", Never(OFF);
    CR4_WRITE = 0x14, "CR4 write", Handled;
    CR5_WRITE = 0x15 to 0x17, "write of CR5 to CR7", Never(OFF);
    CR8_WRITE = 0x18, "CR8 write", Handled;
    CR9_WRITE = 0x19 to 0x1F, "write of CR9 to CR15", Never(OFF);
    DR_READ = 0x20 to 0x2F, "DR read", Never(OFF);
    DR_WRITE = 0x30 to 0x3F, "DR write", Never(OFF);
    EXCEPTION_DE = 0x40, "#DE", Never(OFF);
    EXCEPTION_DB = 0x41, "#DB", Handled;
    EXCEPTION_2 = 0x42 to 0x50, "exception of vector 2 to 16", Never(OFF);
    EXCEPTION_AC = 0x51, "#AC", Handled;
    EXCEPTION_MC = 0x52, "#MC", Handled;
    EXCEPTION_19 = 0x53 to 0x5F, "exception of vector 19 to 31", Never(OFF);
    INTR = 0x60, "external interrupt", Handled;
    NMI = 0x61, "NMI", Handled;
    SMI = 0x62, "SMI", Handled;
    INIT = 0x63, "INIT", Handled;
    VINTR = 0x64, "virtual interrupt", Handled;
    CR0_SELECTIVE = 0x65, "CR0 write but of TS and MP", Never(OFF);
    IDTR_READ = 0x66, "IDTR read", Never(OFF);
    GDTR_READ = 0x67, "GDTR read", Never(OFF);
    LDTR_READ = 0x68, "LDTR read", Never(OFF);
    TR_READ = 0x69, "TR read", Never(OFF);
    IDTR_WRITE = 0x6A, "IDTR write", Never(OFF);
    GDTR_WRITE = 0x6B, "GDTR write", Never(OFF);
    LDTR_WRITE = 0x6C, "LDTR write", Never(OFF);
    TR_WRITE = 0x6D, "TR write", Never(OFF);
    RDTSC = 0x6E, "RDTSC", Handled;
    RDPMC = 0x6F, "RDPMC", Undefined;
    PUSHF = 0x70, "PUSHF", Never(OFF);
    POPF = 0x71, "POPF", Never(OFF);
    CPUID = 0x72, "CPUID", Handled;
    RSM = 0x73, "RSM", Undefined;
    IRET = 0x74, "IRET", Handled;
    SWINT = 0x75, "INTn", Never(OFF);
    INVD = 0x76, "INVD", Handled;
    PAUSE = 0x77, "PAUSE", Handled;
    HLT = 0x78, "HLT", Handled;
    INVLPG = 0x79, "INVLPG", Never(OFF);
    INVLPGA = 0x7A, "INVLPGA", Undefined;
    IOIO = 0x7B, "port access", Handled;
    MSR = 0x7C, "RDMSR or WRMSR", Handled;
    TASK_SWITCH = 0x7D, "task switch", Handled;
    FERR_FREEZE = 0x7E, "FERR freeze", Never(OFF);
    SHUTDOWN = 0x7F, "shutdown", Handled;
    VMRUN = 0x80, "VMRUN", Undefined;
    VMMCALL = 0x81, "VMMCALL", Handled;
    VMLOAD = 0x82, "VMLOAD", Undefined;
    VMSAVE = 0x83, "VMSAVE", Undefined;
    STGI = 0x84, "STGI", Undefined;
    CLGI = 0x85, "CLGI", Undefined;
    SKINIT = 0x86, "SKINIT", Undefined;
    RDTSCP = 0x87, "RDTSCP", Handled;
    ICEBP = 0x88, "ICEBP", Never(OFF);
    WBINVD = 0x89, "WBINVD or WBNOINVD", Handled;
    MONITOR = 0x8A, "MONITOR", Undefined;
    MWAIT = 0x8B, "MWAIT", Undefined;
    MWAIT_ARMED = 0x8C, "armed MWAIT", Undefined;
    XSETBV = 0x8D, "XSETBV", Handled;
    RDPRU = 0x8E, "RDPRU", Undefined;
    EFER_TRAP = 0x8F, "after an EFER write", Never(OFF);
    CR_TRAP = 0x90 to 0x9F, "after a CR write", Never(OFF);
    INVLPGB = 0xA0, "INVLPGB", Undefined;
    INVLPGB_ILLEGAL = 0xA1, "INVLPGB that is not allowed", Undefined;
    INVPCID = 0xA2, "INVPCID", Never(OFF);
    MCOMMIT = 0xA3, "MCOMMIT", Undefined;
    TLBSYNC = 0xA4, "TLBSYNC", Undefined;
    BUS_LOCK = 0xA5, "bus lock", Never(OFF);
    IDLE_HLT = 0xA6, "HLT with nothing pending", Never(OFF);
    NPF = 0x400, "nested page fault", Handled;
    AVIC_INCOMPLETE_IPI = 0x401, "AVIC: incomplete IPI", Never("AVIC is off");
    AVIC_NOACCEL = 0x402, "AVIC: access that is not accelerated", Never("AVIC is off");
    VMGEXIT = 0x403, "VMGEXIT", Never(SEV);
    INVALID = 0xFFFF_FFFF, "invalid guest state", Never("what a guest or toolstack sets is checked first");
}

/// What becomes of an exit for `code`.
pub(super) fn answer(code: u32) -> Answer {
    answers::answer(CODES, code)
}

/// What the exit code says, for whoever reads the log: its name, and why it should not have come.
pub(super) fn describe(code: u32) -> (&'static str, &'static str) {
    answers::describe(CODES, code)
}

#[cfg(test)]
mod tests {
    use super::super::intercepts;
    use super::*;

    #[test]
    fn every_code_has_one_row_in_order() {
        assert!(CODES.iter().all(|row| row.span.0 <= row.span.1));
        assert!(CODES.is_sorted_by(|one, next| one.span.1 < next.span.0));
        let groups = [0..=0xA6, 0x400..=0x403, u32::MAX..=u32::MAX];
        for code in groups.into_iter().flatten() {
            assert_ne!(describe(code).0, "unknown", "{code:#x}");
        }
        for code in [0xA7, 0x3FF, 0x404, u32::MAX - 1] {
            assert_eq!(describe(code).0, "unknown", "{code:#x}");
        }
    }

    #[test]
    fn registers_and_exceptions_are_answered_where_they_are_intercepted() {
        let at_times = intercepts::CR8_WRITE;
        for bit in 0..32 {
            let writes = intercepts::CR4_WRITE | at_times;
            for (first, on) in [(0, writes), (0x20, 0), (0x40, intercepts::EXCEPTIONS)] {
                let is_answered = answer(first + bit) == Handled;
                assert_eq!(is_answered, on & (1 << bit) != 0, "{:#x}", first + bit);
            }
        }
    }

    #[test]
    fn whatever_is_intercepted_has_an_answer_and_nothing_else_has() {
        // from 60H on a bit of the three words has the code of its place
        for (word, first) in [(0, 0x60), (1, 0x80), (2, 0xA0)] {
            for bit in 0..32 {
                let is_on = intercepts::ALWAYS[word] & (1 << bit) != 0;
                let code = first + bit;
                let is_at_times = [VINTR, RDTSC, IRET, PAUSE, RDTSCP].contains(&code);
                let is_answered = !matches!(answer(code), Never(_));
                // bits 16 and up of word 1 have codes elsewhere
                if code < 0xA0 || word == 2 {
                    assert_eq!(is_answered, is_on || is_at_times, "{code:#x}");
                }
            }
        }
    }
}
