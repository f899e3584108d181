//! The few checks that decoding is made of. Each names the field, its value and what would be accepted.

use std::{fmt::Display, ops::RangeInclusive};

use crate::Refusal;

/// `value` if `range` holds it; NaN is in no range.
pub(crate) fn within<T>(field: &str, value: T, range: RangeInclusive<T>) -> Result<T, Refusal>
where
    T: PartialOrd + Display,
{
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Refusal::invalid(format!("{field} is {value}; accepted are {} to {}", range.start(), range.end())))
}

/// The value of a field that must be there.
pub(crate) fn present<T>(field: &str, value: Option<T>) -> Result<T, Refusal> {
    value.ok_or_else(|| Refusal::invalid(format!("{field} is missing; it must be set")))
}

/// `text` if its length in characters is within `range`.
pub(crate) fn text(field: &str, text: String, range: RangeInclusive<usize>) -> Result<String, Refusal> {
    let length = text.chars().count();
    if range.contains(&length) {
        return Ok(text);
    }
    let shown = excerpt(&text);
    let (least, most) = (range.start(), range.end());
    Err(Refusal::invalid(format!("{field} {shown:?} has {length} characters; accepted are {least} to {most}")))
}

/// `values` if their number is within `range`.
pub(crate) fn count<T>(field: &str, values: Vec<T>, range: RangeInclusive<usize>) -> Result<Vec<T>, Refusal> {
    if range.contains(&values.len()) {
        return Ok(values);
    }
    let (given, least, most) = (values.len(), range.start(), range.end());
    Err(Refusal::invalid(format!("{field} holds {given} entries; accepted are {least} to {most}")))
}

/// `value` if it is a number of at least zero.
pub(crate) fn measure<T>(field: &str, value: T) -> Result<T, Refusal>
where
    T: Into<f64> + Copy + Display,
{
    let number: f64 = value.into();
    if number.is_finite() && number >= 0.0 {
        return Ok(value);
    }
    Err(Refusal::invalid(format!("{field} is {value}; accepted are finite numbers of at least 0")))
}

/// Decodes every entry of a repeated field.
pub(crate) fn each<W, D>(values: Vec<W>) -> Result<Vec<D>, Refusal>
where
    D: TryFrom<W, Error = Refusal>,
{
    values.into_iter().map(D::try_from).collect()
}

/// The beginning of a text, short enough for a message.
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut start: String = text.chars().take(SHOWN).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}
