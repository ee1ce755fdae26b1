//! The host's memory.

/// How many bytes of memory the host has in all, with what it swaps to. Where that cannot be asked, whoever wants more than
/// there is finds out later.
pub fn of_host() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let info = rustix::system::sysinfo();
        let units = info.totalram.saturating_add(info.totalswap);
        units.saturating_mul(info.mem_unit.max(1).into())
    }
    #[cfg(not(target_os = "linux"))]
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_some_memory() {
        assert!(of_host() > 64 << 20);
    }
}
