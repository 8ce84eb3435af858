// From GRUB to Rust (AT&T syntax). Multiboot2 enters in 32-bit protected mode without paging, EAX the magic number, EBX
// the physical address of the boot information. Here: check the CPU, map the first 4 GiB three times (identity, direct
// map, image), enter long mode, call Rust. Rust replaces tables and descriptors by final ones.
//
// Symbols are linked at VIRTUAL_OFFSET + physical; until paging is on, every use subtracts the offset.

.set OFFSET, 0xffffffff80000000

// ---- the header -------------------------------------------------------------------------------------------------------
// No framebuffer tag: GRUB would switch the video mode, and Bochs' VBE does not survive that.
.section .multiboot2, "a"
.balign 8
header_start:
    .long 0xe85250d6
    .long 0                                     // i386 protected mode
    .long header_end - header_start
    .long -(0xe85250d6 + 0 + (header_end - header_start))
    // Information request: the memory map is needed, ACPI pointers and EFI's map are welcome.
    .balign 8
    .short 1, 0
    .long 12
    .long 6
    .balign 8
    .short 1, 1
    .long 8 + 4 * 3
    .long 14, 15, 17
    // Modules start on page boundaries.
    .balign 8
    .short 6, 0
    .long 8
    // End.
    .balign 8
    .short 0, 0
    .long 8
header_end:

// ---- 32 bits ----------------------------------------------------------------------------------------------------------
.section .boot.text, "ax"
.code32
.global multiboot_entry
multiboot_entry:
    cli
    cld
    movl $({stack} - OFFSET + {stack_top}), %esp
    movl %eax, %ebp                             // magic
    movl %ebx, %edi                             // boot information

    movl $(no_multiboot - OFFSET), %esi
    cmpl $0x36d76289, %ebp
    jne refuse

    // Long mode, no-execute, and what every 64-bit CPU has with them.
    movl $(no_long_mode - OFFSET), %esi
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb refuse
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc refuse
    movl $(no_execute_disable - OFFSET), %esi
    btl $20, %edx
    jnc refuse

    // Page directories of the first 4 GiB: present, writable, 2 MiB.
    movl $(page_directories - OFFSET), %ebx
    movl $0x83, %eax
    xorl %ecx, %ecx
1:  movl %eax, (%ebx, %ecx, 8)
    movl $0, 4(%ebx, %ecx, 8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jb 1b

    // The low table refers to all four, the high one to the first for the last 2 GiB of addresses.
    movl $(low_pdpt - OFFSET), %ecx
    leal 3(%ebx), %eax
    movl %eax, (%ecx)
    addl $0x1000, %eax
    movl %eax, 8(%ecx)
    addl $0x1000, %eax
    movl %eax, 16(%ecx)
    addl $0x1000, %eax
    movl %eax, 24(%ecx)
    movl $(high_pdpt - OFFSET), %edx
    leal 3(%ebx), %eax
    movl %eax, (510 * 8)(%edx)

    movl $(pml4 - OFFSET), %eax
    orl $3, %ecx
    orl $3, %edx
    movl %ecx, (%eax)
    movl %ecx, (256 * 8)(%eax)
    movl %edx, (511 * 8)(%eax)
    movl %eax, %cr3

    movl $0xa0, %eax                            // PAE, PGE
    movl %eax, %cr4
    movl $0xc0000080, %ecx                      // EFER: LME, NXE
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl $0x80010033, %eax                      // PG, WP, NE, ET, MP, PE
    movl %eax, %cr0

    lgdt (boot_gdt_pointer - OFFSET)
    ljmp $0x08, $(entry64 - OFFSET)

// Prints the text at ESI on COM1 and in the screen's first line, then stops.
refuse:
    movl $0xb8000, %edi
    movw $0x3f9, %dx                            // 115200 8n1, no interrupts
    xorb %al, %al
    outb %al, %dx
    movw $0x3fb, %dx
    movb $0x80, %al
    outb %al, %dx
    movw $0x3f8, %dx
    movb $1, %al
    outb %al, %dx
    incw %dx
    xorb %al, %al
    outb %al, %dx
    movw $0x3fb, %dx
    movb $3, %al
    outb %al, %dx
2:  movb (%esi), %bl
    incl %esi
    testb %bl, %bl
    jz 5f
    movb %bl, (%edi)
    movb $0x4f, 1(%edi)
    addl $2, %edi
    movl $100000, %ecx                          // a UART that never becomes ready must not hang us
    movw $0x3fd, %dx
3:  inb %dx, %al
    testb $0x20, %al
    jnz 4f
    decl %ecx
    jnz 3b
4:  movw $0x3f8, %dx
    movb %bl, %al
    outb %al, %dx
    jmp 2b
5:  cli
    hlt
    jmp 5b

// ---- 64 bits ----------------------------------------------------------------------------------------------------------
.code64
entry64:
    movabsq $1f, %rax
    jmpq *%rax
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq $({stack} + {stack_top}), %rsp
    xorl %eax, %eax
    lldt %ax
    movl %edi, %edi                             // boot information, first argument; the upper half is zero
    xorl %ebp, %ebp                             // the end of the chain of frames
    call {rust_entry}
    ud2

.section .rodata.boot, "a"
no_multiboot:
    .asciz "Hematite: not started by a multiboot2 loader; in GRUB, use the command multiboot2\r\n"
no_long_mode:
    .asciz "Hematite: this CPU has no 64-bit mode; Hematite needs an x86-64 CPU with VT-x and EPT, or AMD-V\r\n"
no_execute_disable:
    .asciz "Hematite: this CPU has no execute-disable bit, or the firmware turned it off; turn on NX/XD in the firmware setup\r\n"
.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdt_pointer:
    .short 23
    .long boot_gdt - OFFSET

.section .bss.boot_tables, "aw", @nobits
.balign 4096
pml4:
    .skip 4096
low_pdpt:
    .skip 4096
high_pdpt:
    .skip 4096
page_directories:
    .skip 4 * 4096
