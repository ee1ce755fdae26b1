//! Which proxy a request goes through, as the environment says it.

use std::ffi::OsString;

/// The proxies of the environment: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in small or capital letters.
/// Where both are set, the small ones count.
#[derive(Clone, Debug, Default)]
pub(in crate::image) struct Proxies {
    http: Option<String>,
    https: Option<String>,
    all: Option<String>,
    /// The hosts that are reached without one.
    none: Vec<String>,
}

impl Proxies {
    /// What the environment of this process says.
    pub(in crate::image) fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// One for every server but some.
    #[cfg(test)]
    pub(super) fn for_all(proxy: &str, none: &str) -> Self {
        let variables = [("all_proxy", proxy), ("no_proxy", none)];
        Self::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| {
            let value =
                [name.to_owned(), name.to_ascii_uppercase()].iter().find_map(|name| variable(name))?;
            value.into_string().ok().filter(|value| !value.is_empty())
        };
        let none = get("no_proxy").unwrap_or_default();
        let none = none.split(',').map(|entry| entry.trim().to_ascii_lowercase());
        Self {
            http: get("http_proxy"),
            https: get("https_proxy"),
            all: get("all_proxy"),
            none: none.filter(|entry| !entry.is_empty()).collect(),
        }
    }

    /// The proxy for a request, if it goes through one.
    pub(super) fn proxy_for(&self, secure: bool, host: &str, port: u16) -> Option<&str> {
        if self.none.iter().any(|entry| matches(entry, &host.to_ascii_lowercase(), port)) {
            return None;
        }
        let own = if secure { &self.https } else { &self.http };
        own.as_ref().or(self.all.as_ref()).map(String::as_str)
    }
}

/// Whether an entry of `no_proxy` means this host: `*`, the host's name, a domain that it is in, each perhaps with a
/// port.
fn matches(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    let (name, wanted_port) = match entry.rsplit_once(':') {
        // An IPv6 address has more colons, and no port unless it stands in brackets.
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => (name, digits.parse().ok()),
        _ => (entry, None),
    };
    let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_owned();
    let (name, host) = (bare(name.trim_start_matches("*.").trim_start_matches('.')), bare(host));
    let inside = || host.strip_suffix(&name).is_some_and(|rest| rest.ends_with('.'));
    wanted_port.is_none_or(|wanted: u16| wanted == port) && !name.is_empty() && (host == name || inside())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn each_scheme_has_its_proxy_in_small_or_capital_letters() {
        let both =
            proxies(&[("HTTP_PROXY", "http://a"), ("https_proxy", "http://b"), ("HTTPS_PROXY", "http://c")]);
        assert_eq!(both.proxy_for(false, "host", 80), Some("http://a"));
        assert_eq!(both.proxy_for(true, "host", 443), Some("http://b"));
        let all = proxies(&[("ALL_PROXY", "http://d"), ("http_proxy", "")]);
        assert_eq!(all.proxy_for(false, "host", 80), Some("http://d"));
        assert_eq!(proxies(&[]).proxy_for(true, "host", 443), None);
    }

    #[test]
    fn hosts_that_need_none_are_reached_directly() {
        let some = proxies(&[
            ("all_proxy", "http://p"),
            ("NO_PROXY", "localhost, .corp.example,*.lab,10.0.0.1:8080,[::1]"),
        ]);
        for (host, port, direct) in [
            ("localhost", 80, true),
            ("LOCALHOST", 80, true),
            ("notlocalhost", 80, false),
            ("x.corp.example", 443, true),
            ("corp.example", 443, true),
            ("corp.example.org", 443, false),
            ("a.lab", 80, true),
            ("10.0.0.1", 8080, true),
            ("10.0.0.1", 80, false),
            ("[::1]", 80, true),
        ] {
            assert_eq!(some.proxy_for(false, host, port).is_none(), direct, "{host}:{port}");
        }
        assert_eq!(proxies(&[("http_proxy", "http://p"), ("no_proxy", "*")]).proxy_for(false, "x", 80), None);
    }
}
