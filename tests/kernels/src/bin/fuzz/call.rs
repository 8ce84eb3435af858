//! A random hypercall, and the making of it.

// UNSAFETY: calls with any arguments; pointers among them lead to the arena, which is atomics, or to nothing of ours.
#![expect(unsafe_code, reason = "random hypercalls")]

use crate::arena::Arena;
use crate::image;
use crate::random::Random;
use guest_abi::event_channel::{EVTCHNOP_expand_array, EVTCHNOP_init_control};
use guest_abi::sched::{SCHEDOP_poll, SCHEDOP_yield};
use guest_abi::vcpu::{
    VCPUOP_register_runstate_memory_area, VCPUOP_register_vcpu_info,
    VCPUOP_register_vcpu_time_memory_area,
};
use guest_abi::xen::{
    __HYPERVISOR_console_io, __HYPERVISOR_domctl, __HYPERVISOR_event_channel_op,
    __HYPERVISOR_grant_table_op, __HYPERVISOR_hvm_op, __HYPERVISOR_kexec_op,
    __HYPERVISOR_memory_op, __HYPERVISOR_multicall, __HYPERVISOR_physdev_op,
    __HYPERVISOR_platform_op, __HYPERVISOR_sched_op, __HYPERVISOR_set_timer_op,
    __HYPERVISOR_sysctl, __HYPERVISOR_vcpu_op, __HYPERVISOR_vm_assist, __HYPERVISOR_xen_version,
    CONSOLEIO_read,
};
use guest_rt::{hypercall, narrow};

/// A number and its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) args: [u64; 5],
    /// Made by 32-bit code.
    pub(crate) is_narrow: bool,
}

/// Those that exist, the more often the more they do.
const USUAL: [u64; 20] = [
    __HYPERVISOR_event_channel_op,
    __HYPERVISOR_event_channel_op,
    __HYPERVISOR_event_channel_op,
    __HYPERVISOR_event_channel_op,
    __HYPERVISOR_memory_op,
    __HYPERVISOR_memory_op,
    __HYPERVISOR_memory_op,
    __HYPERVISOR_hvm_op,
    __HYPERVISOR_hvm_op,
    __HYPERVISOR_vcpu_op,
    __HYPERVISOR_vcpu_op,
    __HYPERVISOR_grant_table_op,
    __HYPERVISOR_physdev_op,
    __HYPERVISOR_xen_version,
    __HYPERVISOR_platform_op,
    __HYPERVISOR_sched_op,
    __HYPERVISOR_multicall,
    __HYPERVISOR_set_timer_op,
    __HYPERVISOR_vm_assist,
    __HYPERVISOR_console_io,
];

/// Makes the call.
pub(crate) fn make(call: &Call) -> i64 {
    if !call.is_narrow {
        // SAFETY: pointers among the arguments lead to the arena, which is atomics, or to nothing of ours.
        return unsafe { hypercall::raw(call.number, call.args) };
    }
    let [ebx, ecx, edx, esi, edi] = call.args.map(narrow_argument);
    // SAFETY: as above.
    i64::from(unsafe { narrow::raw([call.number as u32, ebx, ecx, edx, esi, edi]) })
}

/// What fits; else something that leads to no RAM, which half of an address might.
fn narrow_argument(value: u64) -> u32 {
    const NO_RAM: u32 = 0xC000_0000;
    u32::try_from(value).unwrap_or(value as u32 | NO_RAM)
}

/// True where it can be made by 32-bit code. What points to frames or to more memory is left to 64-bit code, in whose
/// layouts the arena is filled: halves of it could lead to this kernel.
fn can_be_narrow(call: &Call) -> bool {
    let op = call.args[0] & 0xFFFF_FFFF;
    match call.number {
        __HYPERVISOR_xen_version
        | __HYPERVISOR_hvm_op
        | __HYPERVISOR_set_timer_op
        | __HYPERVISOR_vm_assist => true,
        __HYPERVISOR_event_channel_op => {
            op != u64::from(EVTCHNOP_init_control) && op != u64::from(EVTCHNOP_expand_array)
        }
        __HYPERVISOR_vcpu_op => ![
            VCPUOP_register_runstate_memory_area,
            VCPUOP_register_vcpu_info,
            VCPUOP_register_vcpu_time_memory_area,
        ]
        .map(u64::from)
        .contains(&op),
        __HYPERVISOR_sched_op => call.args[0] != u64::from(SCHEDOP_poll),
        number => !USUAL.contains(&number) && !TOOLSTACK.contains(&number),
    }
}

/// Those with pointers within, beside the usual ones.
const TOOLSTACK: [u64; 3] = [
    __HYPERVISOR_domctl,
    __HYPERVISOR_sysctl,
    __HYPERVISOR_kexec_op,
];

/// A random call that does not end the domain.
pub(crate) fn random(random: &mut Random, arena: &Arena) -> Call {
    loop {
        let number = number(random);
        let mut call = match number {
            __HYPERVISOR_multicall => multicall(random, arena),
            _ => one(number, random, arena),
        };
        call.is_narrow = random.once_in(4) && can_be_narrow(&call);
        if !is_left_out(&call) {
            return call;
        }
    }
}

fn number(random: &mut Random) -> u64 {
    match random.below(20) {
        0 => random.next(),
        1..=2 => random.below(64),
        _ => random.pick(&USUAL),
    }
}

/// One more than the highest sub-operation of a hypercall, with a little room.
fn sub_operations(number: u64) -> u64 {
    match number {
        __HYPERVISOR_xen_version => 12,
        __HYPERVISOR_event_channel_op | __HYPERVISOR_vcpu_op => 15,
        __HYPERVISOR_grant_table_op => 13,
        __HYPERVISOR_hvm_op => 26,
        __HYPERVISOR_console_io | __HYPERVISOR_vm_assist => 4,
        _ => 32,
    }
}

fn one(number: u64, random: &mut Random, arena: &Arena) -> Call {
    let op = if random.once_in(12) {
        arena.value(random)
    } else {
        random.below(sub_operations(number))
    };
    let mut args = [op, 0, 0, 0, 0];
    for arg in &mut args[1..] {
        *arg = if random.once_in(3) {
            arena.value(random)
        } else {
            filled_pointer(random, arena)
        };
    }
    match number {
        __HYPERVISOR_memory_op => memory(&mut args, random, arena),
        __HYPERVISOR_vcpu_op => {
            args[1] = if random.once_in(4) {
                arena.value(random)
            } else {
                0
            }
        }
        __HYPERVISOR_sched_op => sched(&mut args, random, arena),
        __HYPERVISOR_grant_table_op => args[2] = random.below(9),
        __HYPERVISOR_platform_op | __HYPERVISOR_domctl | __HYPERVISOR_sysctl => {
            args[0] = envelope(number, random, arena)
        }
        _ => {}
    }
    Call {
        number,
        args,
        is_narrow: false,
    }
}

fn filled_pointer(random: &mut Random, arena: &Arena) -> u64 {
    let pointer = arena.pointer(random);
    arena.fill(pointer, random);
    pointer
}

/// Frame numbers to spend; small orders and sizes only (a large range from a low frame would hold this kernel), or
/// absurd ones.
fn memory(args: &mut [u64; 5], random: &mut Random, arena: &Arena) {
    if !random.once_in(4) {
        args[0] = random.pick(&[1, 1, 2, 3, 4, 6, 6, 7, 9, 14, 15, 23]);
    }
    // none is a frame of the image, as a list of frames may overlap this struct
    const OTHERS: [u64; 8] = [0, 1, 7, 0x6000, 0x7FF1, 0x7FF2, 0x7FF4, 0x7FFF];
    let domid = if random.once_in(8) {
        random.pick(&OTHERS)
    } else {
        0x7FF0
    };
    let words = match args[0] & 63 {
        15 => [domid, arena.value(random), 0, 0],
        0 | 1 | 6 | 11 => reservation(domid, random, arena),
        7 => {
            let (size, space) = (random.below(4), random.below(7));
            [
                domid | size << 16 | space << 32,
                arena.value(random),
                arena.value(random),
                0,
            ]
        }
        23 => {
            let (space, size) = (random.below(7), random.below(9));
            let word = domid | space << 16 | size << 32 | random.below(0x8000) << 48;
            [
                word,
                frames(random, arena),
                frames(random, arena),
                arena.pointer(random),
            ]
        }
        _ => return,
    };
    args[1] = arena.aligned_pointer(random);
    arena.put(args[1], &words);
}

fn reservation(domid: u64, random: &mut Random, arena: &Arena) -> [u64; 4] {
    // aligned: small numbers read across two words could be frames of the image
    let list = frames(random, arena);
    let list = if random.once_in(8) {
        arena.value(random) & !7
    } else {
        list
    };
    let count = if random.once_in(16) {
        arena.value(random)
    } else {
        random.below(9)
    };
    let order = if random.once_in(16) {
        40 + random.below(200)
    } else {
        random.below(4)
    };
    let flags = if random.once_in(8) {
        random.next() & 0xFFFF_FFFF
    } else {
        0
    };
    [list, count, order | flags << 32, domid]
}

/// A list of 8 frames, most of them to spend.
fn frames(random: &mut Random, arena: &Arena) -> u64 {
    let list = arena.aligned_pointer(random);
    let frames = [0; 8].map(|_: u64| {
        if random.once_in(6) {
            arena.value(random)
        } else {
            arena.frame(random)
        }
    });
    arena.put(list, &frames);
    list
}

/// Yields, polls that end at once, and what does not exist.
fn sched(args: &mut [u64; 5], random: &mut Random, arena: &Arena) {
    args[0] = match random.below(3) {
        0 => u64::from(SCHEDOP_yield),
        1 => u64::from(SCHEDOP_poll),
        _ => 8 + random.below(1 << 20),
    };
    if args[0] == u64::from(SCHEDOP_poll) {
        args[1] = arena.aligned_pointer(random);
        let ports = arena.value(random);
        let count = random.below(130);
        arena.put(args[1], &[ports, count, 1]);
    }
}

/// The one struct of a toolstack call: often the right version, seldom a command that exists.
fn envelope(number: u64, random: &mut Random, arena: &Arena) -> u64 {
    let pointer = arena.aligned_pointer(random);
    arena.fill(pointer, random);
    let right = if number == __HYPERVISOR_platform_op {
        0x0300_0001
    } else {
        0x15
    };
    let version = if random.once_in(4) {
        random.next() & 0xFFFF_FFFF
    } else {
        right
    };
    let command = if number == __HYPERVISOR_platform_op {
        random.pick(&[17, 39, 48, 50, 53, 54, 55, 60, 61, 62, 63, 64, 99])
    } else {
        random.pick(&[0, 5, 14, 25, 99, 1000, 0xFFFF_FFFF])
    };
    arena.put(pointer, &[command | version << 32]);
    pointer
}

/// A few calls in one, each as it could have been made alone, in a page of their own.
fn multicall(random: &mut Random, arena: &Arena) -> Call {
    let mut words = [0u64; 4 * 8];
    let count = random.below(5);
    for entry in words.chunks_exact_mut(8).take(count as usize) {
        let number = random.pick(&[
            __HYPERVISOR_xen_version,
            __HYPERVISOR_event_channel_op,
            __HYPERVISOR_hvm_op,
            63,
        ]);
        let call = one(number, random, arena);
        entry[0] = number;
        entry[2..7].copy_from_slice(&call.args);
    }
    let list = arena.put_multicall(&words);
    let list = if random.once_in(8) { 5 << 30 } else { list };
    Call {
        number: __HYPERVISOR_multicall,
        args: [list, count, 0, 0, 0],
        is_narrow: false,
    }
}

/// Calls that would end or stop the domain, reset the machine, or flood the console.
fn is_left_out(call: &Call) -> bool {
    let op = call.args[0];
    match call.number {
        __HYPERVISOR_sched_op => !(op == 0 || op == 3 || op >= 8),
        // down would stop the only vCPU
        __HYPERVISOR_vcpu_op => op & 0xFFFF_FFFF == 2 || image::is_named(call),
        __HYPERVISOR_console_io => {
            op & 0xFFFF_FFFF != u64::from(CONSOLEIO_read) && op & 0xFFFF_FFFF < 2
        }
        __HYPERVISOR_kexec_op => true,
        __HYPERVISOR_memory_op | __HYPERVISOR_grant_table_op | __HYPERVISOR_event_channel_op => {
            image::is_named(call)
        }
        _ => false,
    }
}
