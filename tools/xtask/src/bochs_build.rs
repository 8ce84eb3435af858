//! Builds Bochs 3.0, the emulated machine that has VT-x when the real one has not.
//!
//! It has SVM too, on its models of AMD's CPUs. Debian's package carries the debugger and runs at a quarter of the
//! speed, and 3.0 has ten faults that stop a hypervisor which uses what recent CPUs offer. So the source Debian ships
//! is built with [`MENDS`]. A mend replaces a text that must be there exactly once: another version of Bochs fails
//! loudly instead of building wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::Step;
use crate::{apt, paths, shell};

/// The upstream tarball in Debian 13, by its digest in Debian's signed index.
const SOURCE_SHA256: &str = "78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b";

/// One edit of the source.
struct Mend {
    file: &'static str,
    before: &'static str,
    after: &'static str,
    /// Why, for the reader; and what is printed when the text is not there.
    reason: &'static str,
}

const MENDS: &[Mend] = &[
    Mend {
        file: "cpu/vmx.cc",
        before: "if (! IsValidPageAlignedPhyAddr(vm->pid_addr)) {",
        after: "if (! IsValidPhyAddr(vm->pid_addr) || (vm->pid_addr & 0x3f) != 0) {",
        reason: "a posted-interrupt descriptor is aligned to 64 bytes, not to a page \
                 (Intel SDM vol. 3C, \"Checks on VMX Controls\")",
    },
    Mend {
        file: "cpu/vmx.cc",
        before: "  BX_CPU_THIS_PTR in_vmx_guest = true;\n",
        after: "  BX_CPU_THIS_PTR in_vmx_guest = true;\n  handleInterruptMaskChange();\n",
        reason: "the interrupt mask depends on in_vmx_guest: not computed anew, a guest entered with IF=0 that spins \
                 is never left on an external interrupt",
    },
    Mend {
        file: "cpu/event.cc",
        before: "    if (is_pending(BX_EVENT_PENDING_VMX_VIRTUAL_INTR)) {",
        after: "    if (is_unmasked_event_pending(BX_EVENT_PENDING_VMX_VIRTUAL_INTR)) {",
        reason: "on an external interrupt a pending virtual interrupt was delivered though the guest had it masked",
    },
    Mend {
        file: "cpu/apic.cc",
        before: "    Bit64u currtime = bx_pc_system.time_ticks();\n    timer_active = true;",
        after: "    Bit64u currtime = cpu->get_TSC();\n    timer_active = true;",
        reason: "a TSC deadline was compared with the ticks since power-on: after a reset, which zeroes the TSC only, \
                 every deadline was in the past and its interrupt came at once, for ever",
    },
    Mend {
        file: "cpu/vapic.cc",
        before: "BX_INFO((\"Pending Virtual Interrupt",
        after: "BX_DEBUG((\"Pending Virtual Interrupt",
        reason: "a log line for each virtual interrupt costs more than the interrupt",
    },
    Mend {
        file: "cpu/vapic.cc",
        before: "BX_INFO((\"Clear Virtual Interrupt",
        after: "BX_DEBUG((\"Clear Virtual Interrupt",
        reason: "as above",
    },
    Mend {
        file: "cpu/svm.cc",
        before: "  BX_CPU_THIS_PTR in_svm_guest = true;\n",
        after: "  BX_CPU_THIS_PTR in_svm_guest = true;\n  handleInterruptMaskChange();\n",
        reason: "the interrupt mask depends on in_svm_guest: not computed anew, a guest entered with IF=0 that spins \
                 is never left on an external interrupt, and a virtual one never reaches a guest entered with IF=1",
    },
    Mend {
        file: "cpu/flag_ctrl_pro.cc",
        before: "void BX_CPU_C::handleInterruptMaskChange(void)\n{\n",
        after: SVM_INTERRUPT_MASK,
        reason: "with V_INTR_MASKING the host's IF masks physical interrupts, the guest's IF and V_TPR the virtual one \
                 (AMD APM vol. 2, \"Masking Physical Interrupts\")",
    },
    Mend {
        file: "cpu/svm.cc",
        before: "BX_ERROR((\"SVM VMEXIT: event vector",
        after: "BX_DEBUG((\"SVM VMEXIT: event vector",
        reason: "an exit for an exception is no error",
    },
    Mend {
        file: "cpu/svm.cc",
        before: "BX_ERROR((\"SVM VMEXIT: I/O port",
        after: "BX_DEBUG((\"SVM VMEXIT: I/O port",
        reason: "an exit for an I/O port is no error",
    },
    Mend {
        file: "cpu/exception.cc",
        before: "  BX_CPU_THIS_PTR in_event = true;\n#endif\n",
        after: SVM_EVENT_IN_DELIVERY,
        reason: "EXITINTINFO told of the last exception also where the delivery of an interrupt or of a software event \
                 was interrupted (AMD APM vol. 2, \"EXITINTINFO Pseudo-Code\")",
    },
    Mend {
        file: "cpu/svm.cc",
        before: "  mask_event(BX_EVENT_SVM_VIRQ_PENDING);\n\n  BX_CPU_THIS_PTR in_svm_guest = false;\n",
        after: "  mask_event(BX_EVENT_SVM_VIRQ_PENDING);\n\n  BX_CPU_THIS_PTR debug_trap = 0;\n  BX_CPU_THIS_PTR in_svm_guest = false;\n",
        reason: "the single-step trap of a guest whose instruction exited was raised in the host, right after VMRUN",
    },
    Mend {
        file: "cpu/exception.cc",
        before: "#if BX_SUPPORT_SVM\n  SvmInterceptException(BX_HARDWARE_EXCEPTION, vector,",
        after: SVM_DEBUG_REGISTERS,
        reason: "a #DB that exits has DR6 and DR7 as its handler would see them (AMD APM vol. 2, \"Exception Intercepts\")",
    },
    Mend {
        file: "cpu/svm.cc",
        before: "  BX_CPU_THIS_PTR cr3 = guest.cr3;\n",
        after: "  BX_CPU_THIS_PTR cr2 = guest.cr2;\n  BX_CPU_THIS_PTR cr3 = guest.cr3;\n",
        reason: "VMRUN read the guest's CR2 and did not load it (AMD APM vol. 2, \"VMRUN\")",
    },
];

/// How a CPU that runs an SVM guest masks interrupts, and what follows for one that does not.
const SVM_INTERRUPT_MASK: &str = "void BX_CPU_C::handleInterruptMaskChange(void)
{
#if BX_SUPPORT_SVM
  if (BX_CPU_THIS_PTR in_svm_guest && SVM_V_INTR_MASKING) {
    if (SVM_HOST_IF)
      unmask_event(BX_EVENT_PENDING_INTR | BX_EVENT_PENDING_LAPIC_INTR);
    else
      mask_event(BX_EVENT_PENDING_INTR | BX_EVENT_PENDING_LAPIC_INTR | BX_EVENT_PENDING_UINTR);
    if (BX_CPU_THIS_PTR get_IF() && (SVM_V_IGNORE_TPR || SVM_V_INTR_PRIO > SVM_V_TPR))
      unmask_event(BX_EVENT_SVM_VIRQ_PENDING);
    else
      mask_event(BX_EVENT_SVM_VIRQ_PENDING);
    return;
  }
#endif
";

/// What EXITINTINFO has of an event whose delivery begins: INT3, INTO and INT1 are exceptions in it.
const SVM_EVENT_IN_DELIVERY: &str = "  BX_CPU_THIS_PTR in_event = true;
#endif

#if BX_SUPPORT_SVM
  if (BX_CPU_THIS_PTR in_svm_guest) {
    bool is_exception = type == BX_SOFTWARE_EXCEPTION || type == BX_PRIVILEGED_SOFTWARE_INTERRUPT;
    unsigned type_in_info = is_exception ? BX_HARDWARE_EXCEPTION : type;
    BX_CPU_THIS_PTR vmcb->ctrls.exitintinfo = vector | (type_in_info << 8) | (push_error ? (1 << 11) : 0);
    BX_CPU_THIS_PTR vmcb->ctrls.exitintinfo_error_code = error_code;
  }
#endif
";

/// What a debug exception does to the debug registers, before it exits.
const SVM_DEBUG_REGISTERS: &str = "#if BX_SUPPORT_SVM
  if (BX_CPU_THIS_PTR in_svm_guest && vector == BX_DB_EXCEPTION) {
    BX_CPU_THIS_PTR dr6.val32 = (BX_CPU_THIS_PTR dr6.val32 & 0xffff6ff0) | (BX_CPU_THIS_PTR debug_trap & 0x0000e00f);
    BX_CPU_THIS_PTR dr7.set_GD(0);
  }
  SvmInterceptException(BX_HARDWARE_EXCEPTION, vector,";

/// No debugger (speed), no `--enable-show-ips` (its timer handler can deadlock with the logger), both displays that
/// need no library.
const CONFIGURE: &[&str] = &[
    "--enable-smp",
    "--enable-x86-64",
    "--enable-a20-pin",
    "--enable-pci",
    "--enable-usb",
    "--enable-e1000",
    "--enable-ne2000",
    "--enable-all-optimizations",
    "--enable-cpu-level=6",
    "--enable-vmx=2",
    "--enable-svm",
    "--enable-avx",
    "--enable-evex",
    "--enable-fast-function-calls",
    "--enable-handlers-chaining",
    "--enable-configurable-msrs",
    "--disable-debugger",
    "--disable-docbook",
    "--with-nogui",
    "--with-rfb",
];

const FLAGS: &str = "-O3 -march=native";

/// Returns where the emulator is that is built from this source with these mends for this CPU. Each has a place of its
/// own, so that two checkouts of the repository do not build over each other.
///
/// # Errors
/// As [`paths::cache`].
pub(crate) fn path() -> Result<PathBuf> {
    let digest = harness::server::sha256(recipe().as_bytes());
    let key = digest.get(..12).unwrap_or(&digest);
    Ok(paths::cache()?.join(format!("bochs-{key}/bochs")))
}

/// Fetches, mends, builds, and puts the emulator at `binary`.
///
/// # Errors
/// No source, a mend whose text is not there exactly once, a build that fails.
pub(crate) fn build(binary: &Path) -> Result<()> {
    let dir = binary
        .parent()
        .context("the emulator's path has a directory")?;
    let work = dir.join("build");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(&work)?;
    let tarball = work.join("bochs.tar.xz");
    let step = Step::start("fetching the source of Bochs 3.0");
    apt::fetch_source("bochs", ".orig.tar.xz", SOURCE_SHA256, &tarball)?;
    step.done();
    shell::output(
        Command::new("tar")
            .args(["-xJf", "bochs.tar.xz", "--strip-components=1"])
            .current_dir(&work),
    )?;
    for mend in MENDS {
        mend.apply(&work)?;
    }
    shell::step(
        "configuring Bochs",
        Command::new("./configure")
            .args(CONFIGURE)
            .env("CFLAGS", FLAGS)
            .env("CXXFLAGS", FLAGS)
            .current_dir(&work),
    )?;
    let jobs = std::thread::available_parallelism().map_or(2, usize::from);
    shell::step(
        "building Bochs (two to three minutes, once)",
        Command::new("make")
            .arg(format!("-j{jobs}"))
            .arg("bochs")
            .current_dir(&work),
    )?;
    shell::output(Command::new("strip").arg("bochs").current_dir(&work))?;
    fs::write(binary.with_file_name("recipe"), recipe())?;
    // Renamed into place last: a build that was interrupted leaves no half an emulator.
    fs::rename(work.join("bochs"), binary)?;
    fs::remove_dir_all(&work)?;
    let _ = fs::remove_file(binary.with_file_name("fallback"));
    Ok(())
}

impl Mend {
    fn apply(&self, source: &Path) -> Result<()> {
        let path = source.join(self.file);
        // Some files have Latin-1 names in their comments, so they are edited as bytes.
        let text = fs::read(&path).with_context(|| format!("Bochs has no {}", self.file))?;
        let edited = replace_once(&text, self.before.as_bytes(), self.after.as_bytes());
        match edited {
            Ok(edited) => Ok(fs::write(&path, edited)?),
            Err(times) => bail!(
                "this Bochs is not the one the mend was made for: {} has `{}` {times} times, not once (the mend: {})",
                self.file,
                self.before.trim(),
                self.reason
            ),
        }
    }
}

/// Replaces the only occurrence of `before`, or returns how many there are.
fn replace_once(text: &[u8], before: &[u8], after: &[u8]) -> Result<Vec<u8>, usize> {
    let at: Vec<usize> = text
        .windows(before.len())
        .enumerate()
        .filter(|(_, window)| *window == before)
        .map(|(i, _)| i)
        .collect();
    let &[at] = at.as_slice() else {
        return Err(at.len());
    };
    Ok([&text[..at], after, &text[at + before.len()..]].concat())
}

/// What the binary depends on: when this text changes, it is built anew.
pub(crate) fn recipe() -> String {
    let mut text = format!(
        "{SOURCE_SHA256}\n{CONFIGURE:?}\n{FLAGS} on {}\n",
        host_cpu()
    );
    for mend in MENDS {
        text += &format!(
            "{}: {} -> {}\n",
            mend.file,
            mend.before.trim(),
            mend.after.trim()
        );
    }
    text
}

/// `-march=native` ties the binary to a CPU: a cache shared between machines must not be.
fn host_cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split_once(':'))
            .map_or("", |(_, v)| v.trim())
            .to_owned()
    };
    format!("{} {}", field("cpu family"), field("flags"))
}

/// Returns the emulator to use and whether it is the mended one.
///
/// # Errors
/// Neither ours nor Debian's is there.
pub(crate) fn find() -> Result<(PathBuf, bool)> {
    let ours = path()?;
    if ours.is_file() {
        return Ok((ours, true));
    }
    let packaged = Path::new("/usr/bin/bochs");
    if packaged.exists() {
        return Ok((packaged.to_path_buf(), false));
    }
    bail!("there is no Bochs: run `cargo xtask setup`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_there_once_is_replaced() {
        assert_eq!(replace_once(b"a b c", b"b", b"x").unwrap(), b"a x c");
    }

    #[test]
    fn a_text_that_is_missing_or_there_twice_is_refused() {
        assert_eq!(replace_once(b"a c", b"b", b"x"), Err(0));
        assert_eq!(replace_once(b"b b", b"b", b"x"), Err(2));
    }
}
