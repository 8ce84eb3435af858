//! Xen's public ABI as plain data: one file per public header, under the header's name.
#![no_std]
#![forbid(unsafe_code)]
