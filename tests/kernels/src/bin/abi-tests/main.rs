//! Tests of the guest ABI.
#![no_std]
#![no_main]

guest_rt::entry!(main);

fn main() {
    guest_rt::say!("hello");
}
