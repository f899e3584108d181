//! Until when a call is to be answered.

use std::time::Duration;

use tokio::time::Instant;
use tonic::codegen::http::HeaderMap;

/// The earlier of what the caller says and of what the server grants from `now` on; `None`: neither says anything.
pub(crate) fn deadline(headers: &HeaderMap, granted: Option<Duration>, now: Instant) -> Option<Instant> {
    let asked = headers.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
    // No clock goes on for as long as a header may say.
    asked.into_iter().chain(granted).min().and_then(|span| now.checked_add(span))
}

/// `grpc-timeout`: up to eight digits and a unit, as gRPC's HTTP/2 mapping says. What is none is as if it was not there.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _other => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(header: &str, granted: Option<u64>) -> Option<Duration> {
        let (now, mut headers) = (Instant::now(), HeaderMap::new());
        headers.insert("grpc-timeout", header.parse().unwrap());
        deadline(&headers, granted.map(Duration::from_secs), now).map(|until| until - now)
    }

    #[test]
    fn the_earlier_of_both_holds() {
        assert_eq!(after("3S", Some(5)), Some(Duration::from_secs(3)));
        assert_eq!(after("1M", Some(5)), Some(Duration::from_secs(5)));
        assert_eq!(after("250m", None), Some(Duration::from_millis(250)));
        assert_eq!(after("99999999H", Some(5)), Some(Duration::from_secs(5)));
        assert_eq!(deadline(&HeaderMap::new(), None, Instant::now()), None);
    }

    #[test]
    fn what_is_no_timeout_is_as_if_it_was_not_there() {
        for header in ["", "S", "3", "3s", "-3S", "+3S", "123456789S", "3 S", "3SS"] {
            assert_eq!(after(header, Some(5)), Some(Duration::from_secs(5)), "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".{0,12}") {
            let _ = timeout(&text);
        }
    }
}
