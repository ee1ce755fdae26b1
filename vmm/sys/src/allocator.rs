//! The C library's allocator of memory.

/// Has all threads share one arena, the one that the process begins with.
///
/// glibc's other arenas read files of the host when they shrink (`/proc/sys/vm/overcommit_memory`) and when there come
/// to be many (`/sys/devices/system/cpu/online`), from whichever thread that happens on. Other C libraries do not.
pub fn use_one_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: the call takes two numbers and may be made at any time (mallopt(3)).
        #[expect(unsafe_code, reason = "a call of the C library without a safe wrapper")]
        let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        debug_assert_eq!(done, 1, "one arena is a possible number of arenas");
    }
}
