//! From a kernel file to a domain that can start: the file's formats, and what the kernel is told about its machine.
//!
//! A Debian kernel is a [`bzimage`] with a compressed [`payload`], which holds an ELF file ([`elf`]) whose note names
//! the PVH entry point. [`e820`] is the map of memory, [`dom0_memory`] decides which memory of the host is dom0's, and
//! [`start_info`] lays out what the kernel finds through EBX.

pub mod e820;
