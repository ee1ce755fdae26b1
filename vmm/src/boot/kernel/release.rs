//! The release of a kernel, as the kernel itself tells it in its banner.

/// How the banner begins (init/version.c, `linux_banner`).
const BANNER: &[u8] = b"Linux version ";

/// The longest release that `uname` can hold, without its final zero (include/uapi/linux/utsname.h).
const LONGEST: usize = 64;

/// The word behind the first banner in the kernel's bytes. The kernel also holds the banner as a format (`%s`).
pub(super) fn find(kernel: &[u8]) -> Option<String> {
    let mut rest = kernel;
    while let Some(at) = position(rest, BANNER) {
        rest = &rest[at + BANNER.len()..];
        let word = rest.iter().take(LONGEST + 1).take_while(|byte| is_plain(**byte)).count();
        if (1..=LONGEST).contains(&word) && rest.get(word) == Some(&b' ') && rest[0].is_ascii_digit() {
            return String::from_utf8(rest[..word].to_vec()).ok();
        }
    }
    None
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_+~".contains(&byte)
}

/// Where a word is first found. It skips from one candidate for the first byte to the next.
pub(super) fn position(bytes: &[u8], word: &[u8]) -> Option<usize> {
    let first = *word.first()?;
    let mut from = 0;
    loop {
        from += bytes.get(from..)?.iter().position(|byte| *byte == first)?;
        if bytes[from..].starts_with(word) {
            return Some(from);
        }
        from += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn the_release_is_the_word_behind_the_banner() {
        let kernel = b"..Linux version %s (%s)..LLinux version 6.18.56-0-virt (buildozer@x) #1-Alpine";
        assert_eq!(find(kernel).as_deref(), Some("6.18.56-0-virt"));
    }

    #[test]
    fn a_kernel_without_a_banner_tells_no_release() {
        let long = format!("Linux version {} ", "6".repeat(65));
        for kernel in
            [&b""[..], b"Linux version ", b"Linux version 6.18", b"Linux version ../etc ", long.as_bytes()]
        {
            assert_eq!(find(kernel), None);
        }
    }
}
