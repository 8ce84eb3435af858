//! xen_version: who is below us.

use guest_abi::Errno;
use guest_abi::version::*;
use guest_abi::xen::__HYPERVISOR_xen_version;
use xendev::Arg;
use zerocopy::{FromZeros, IntoBytes};

use super::{CallResult, Hyper, HypercallError};

/// All that `xen_version` tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionInfo {
    /// Major number.
    pub major: u16,
    /// Minor number.
    pub minor: u16,
    /// What follows them, as `.5`.
    pub extra: String,
    /// Compiler.
    pub compiler: String,
    /// Who built it.
    pub compile_by: String,
    /// Where.
    pub compile_domain: String,
    /// When.
    pub compile_date: String,
    /// Kinds of domains, separated by spaces.
    pub capabilities: String,
    /// Changeset.
    pub changeset: String,
    /// The hypervisor's command line.
    pub commandline: String,
    /// Start of the hypervisor's part of a PV guest's address space.
    pub virt_start: u64,
    /// Bytes of a page.
    pub pagesize: u64,
    /// Build id; empty where there is none.
    pub build_id: Vec<u8>,
}

impl Hyper {
    fn version_op(&self, cmd: u32, bytes: &mut [u8]) -> CallResult<i64> {
        self.call_with(__HYPERVISOR_xen_version, cmd, bytes)
            .map_err(|errno| {
                HypercallError::new("xen_version", format!("sub-operation {cmd}"), errno)
            })
    }

    fn version_text(&self, cmd: u32, size: usize) -> CallResult<String> {
        let mut bytes = vec![0; size];
        self.version_op(cmd, &mut bytes)?;
        Ok(text(&bytes))
    }

    /// Returns major and minor number.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn version(&self) -> CallResult<(u16, u16)> {
        let packed = self
            .0
            .hypercall(
                __HYPERVISOR_xen_version,
                &mut [Arg::Value(XENVER_version.into()), Arg::Value(0)],
            )
            .map_err(|errno| HypercallError::new("xen_version", "version", errno))?;
        let [minor_low, minor_high, major_low, major_high, ..] = packed.to_le_bytes();
        Ok((
            u16::from_le_bytes([major_low, major_high]),
            u16::from_le_bytes([minor_low, minor_high]),
        ))
    }

    /// Reads everything that `xen_version` tells.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn version_info(&self) -> CallResult<VersionInfo> {
        let (major, minor) = self.version()?;
        let mut compile = XenCompileInfo::new_zeroed();
        self.version_op(XENVER_compile_info, compile.as_mut_bytes())?;
        let mut platform = XenPlatformParameters::default();
        self.version_op(XENVER_platform_parameters, platform.as_mut_bytes())?;
        let pagesize = self
            .0
            .hypercall(
                __HYPERVISOR_xen_version,
                &mut [Arg::Value(XENVER_pagesize.into()), Arg::Value(0)],
            )
            .unwrap_or(4096);
        Ok(VersionInfo {
            major,
            minor,
            extra: self.version_text(XENVER_extraversion, XEN_EXTRAVERSION_LEN)?,
            compiler: text(&compile.compiler),
            compile_by: text(&compile.compile_by),
            compile_domain: text(&compile.compile_domain),
            compile_date: text(&compile.compile_date),
            capabilities: self.version_text(XENVER_capabilities, XEN_CAPABILITIES_INFO_LEN)?,
            changeset: self.version_text(XENVER_changeset, XEN_CHANGESET_INFO_LEN)?,
            commandline: self.commandline()?,
            virt_start: platform.virt_start,
            pagesize: u64::try_from(pagesize).unwrap_or(4096),
            build_id: self.build_id(),
        })
    }

    /// Reads the options that the hypervisor was started with.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn commandline(&self) -> CallResult<String> {
        self.version_text(XENVER_commandline, XEN_COMMANDLINE_LEN)
    }

    /// The build id; empty where there is none.
    fn build_id(&self) -> Vec<u8> {
        const ROOM: usize = 256;
        let mut bytes = [0; 4 + ROOM];
        if let Some(head) = bytes.first_chunk_mut::<4>() {
            *head = u32::try_from(ROOM).unwrap_or(0).to_le_bytes();
        }
        let length: Result<i64, Errno> =
            self.call_with(__HYPERVISOR_xen_version, XENVER_build_id, &mut bytes);
        let length = length
            .ok()
            .and_then(|length| usize::try_from(length).ok())
            .unwrap_or(0);
        bytes.get(4..4 + length).unwrap_or_default().to_vec()
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}
