// What the CPU runs on an interrupt or exception (Intel syntax). One stub a vector, 16 bytes apart from `hv_stubs` on.
//
// Vectors 0 to 31, exceptions: all registers go to the stack and `exception` in exception.rs gets their address.
// Vectors 32 to 255, external interrupts: they are taken only while `irq::wait_for_interrupt` sleeps and where
// `irq::poll_interrupt` looks. The stub notes the vector for them and returns with interrupts off again.

.section .text.hv_stubs, "ax"
.balign 16
.global hv_stubs
hv_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if vector < 32
        // The CPU pushes an error code for these only; the others get a zero in its place.
        .if vector != 8 && vector != 10 && vector != 11 && vector != 12 && vector != 13 && vector != 14 && vector != 17 && vector != 21 && vector != 29 && vector != 30
            push 0
        .endif
        push vector
        jmp hv_exception
    .else
        push vector
        jmp hv_interrupt
    .endif
    .set vector, vector + 1
.endr

hv_interrupt:
    push rax
    mov eax, [rsp + 8]
    mov gs:[{taken_vector}], eax
    pop rax
    add rsp, 8
    and dword ptr [rsp + 16], 0xfffffdff
    iretq

hv_exception:
    cld
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    call {exception}
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq

// u32 hv_rdmsr_safe(u32 msr, u64 *value): 1, or 0 where the CPU raised #GP.
.global hv_rdmsr_safe
hv_rdmsr_safe:
    mov ecx, edi
.global hv_rdmsr_at
hv_rdmsr_at:
    rdmsr
    shl rdx, 32
    or rax, rdx
    mov [rsi], rax
    mov eax, 1
    ret

// u32 hv_wrmsr_safe(u32 msr, u64 value): 1, or 0 where the CPU raised #GP.
.global hv_wrmsr_safe
hv_wrmsr_safe:
    mov ecx, edi
    mov eax, esi
    mov rdx, rsi
    shr rdx, 32
.global hv_wrmsr_at
hv_wrmsr_at:
    wrmsr
    mov eax, 1
    ret

.global hv_msr_failed
hv_msr_failed:
    xor eax, eax
    ret
