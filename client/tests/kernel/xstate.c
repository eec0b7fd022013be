/*
 * Lets user-mode Linux run on processors whose register state is larger than it knows.
 *
 * Linux 6.1 keeps 2,696 bytes of a process's floating-point state, which is all that there is up to AVX-512
 * and protection keys. A host with larger registers (AMX) refuses to set a state that is not whole
 * (arch/x86/kernel/fpu/regset.c: xstateregs_set), and the machine's first process dies of it. So what comes
 * short is set on top of what is there. Preloaded into the machine's kernel; its processes are not given it.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

long ptrace(enum __ptrace_request request, ...)
{
	/* More than any processor has; the machine's kernel has one thread that traces. */
	static char whole[64 * 1024];
	va_list arguments;
	va_start(arguments, request);
	long pid = va_arg(arguments, long);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	/* As the C library has it: what is peeked at is the result. */
	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
		long word;
		long result = syscall(SYS_ptrace, request, pid, address, &word);
		return result < 0 ? result : word;
	}
	if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE) {
		struct iovec *given = data;
		struct iovec all = { whole, sizeof whole };
		if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, address, &all) == 0 && all.iov_len > given->iov_len) {
			memcpy(whole, given->iov_base, given->iov_len);
			return syscall(SYS_ptrace, request, pid, address, &all);
		}
	}
	return syscall(SYS_ptrace, request, pid, address, data);
}
