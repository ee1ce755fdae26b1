//! Rust's text without what only people read: comments and the insides of strings, blanked in place, so that lines
//! keep their numbers.

/// Blanks comments, strings and characters.
pub(super) fn without_comments_and_strings(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (length, keep) = token(rest, code.chars().next_back());
        let (taken, left) = rest.split_at(length.max(first.len_utf8()));
        if keep {
            code.push_str(taken);
        } else {
            code.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = left;
    }
    code
}

/// The length of what stands at the start, and whether it is code.
fn token(rest: &str, before: Option<char>) -> (usize, bool) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), false);
    }
    if rest.starts_with('"') {
        return (string(rest), false);
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !in_word && let Some(length) = raw_string(rest) {
        return (length, false);
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    (0, true)
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(left) = rest.get(at..).filter(|left| !left.is_empty()) {
        if left.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if left.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += left.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// `r"…"`, `br#"…"#` and their like: no escapes, ended by as many `#` as they began with.
fn raw_string(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c| !matches!(c, 'b' | 'c' | 'r'))?;
    if !matches!(rest.get(..prefix)?, "r" | "br" | "cr") {
        return None;
    }
    let hashes = rest.get(prefix..)?.chars().take_while(|c| *c == '#').count();
    let inside = rest.get(prefix + hashes..)?.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = prefix + hashes + 1;
    Some(inside.find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

/// A character, or else a lifetime, which is code.
fn character(rest: &str) -> (usize, bool) {
    let mut inside = rest.char_indices().skip(1);
    match inside.next() {
        Some((_, '\\')) => {
            let end = inside.skip(1).find(|(_, c)| *c == '\'');
            (end.map_or(rest.len(), |(at, _)| at + 1), false)
        }
        Some(_) => match inside.next() {
            Some((at, '\'')) => (at + 1, false),
            _ => (0, true),
        },
        None => (0, true),
    }
}

#[cfg(test)]
mod tests {
    use super::without_comments_and_strings as code_of;

    #[test]
    fn comments_and_strings_are_blank_and_lines_stay() {
        assert_eq!(code_of("a // b\nc /* d /* e */ f */ g"), "a     \nc                   g");
        assert_eq!(code_of("f(\"a\\\"b\", 1)"), "f(      , 1)");
        assert_eq!(code_of("x = r#\"a\"b\"#; y"), "x =         ; y");
        assert_eq!(code_of("\"a\nb\" c"), "  \n   c");
    }

    #[test]
    fn a_lifetime_is_code_and_a_quote_in_a_character_begins_no_string() {
        assert_eq!(code_of("fn f<'a>(x: &'a str)"), "fn f<'a>(x: &'a str)");
        assert_eq!(code_of("'\"' x '\\'' y 'z' 'ä'"), "    x      y        ");
    }

    #[test]
    fn a_name_that_ends_in_r_is_no_raw_string() {
        assert_eq!(code_of("for\"x\""), "for   ");
        assert_eq!(code_of("bar(r)"), "bar(r)");
    }
}
