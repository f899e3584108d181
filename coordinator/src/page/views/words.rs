//! States, times and numbers as people read them.

use likeness_proto::v1::{self, JobState, SubjectState};
use maud::{Markup, html};

/// A state with its colour, which the word says too.
pub(super) fn chip(word: &str, tone: &str) -> Markup {
    html! { span class={ "chip " (tone) } { (word) } }
}

/// A job's state: the word and its tone.
pub(super) fn of_job(state: JobState) -> (&'static str, &'static str) {
    match state {
        JobState::Unspecified => ("Unknown", "quiet"),
        JobState::Queued => ("Waiting", "quiet"),
        JobState::Running => ("Running", "busy"),
        JobState::Succeeded => ("Done", "good"),
        JobState::PartlyFailed => ("Partly failed", "warn"),
        JobState::Failed => ("Failed", "bad"),
        JobState::Cancelled => ("Cancelled", "quiet"),
    }
}

/// A subject's state in a job, likewise.
pub(super) fn of_subject(state: SubjectState) -> (&'static str, &'static str) {
    match state {
        SubjectState::Unspecified => ("Unknown", "quiet"),
        SubjectState::Queued => ("Waiting", "quiet"),
        SubjectState::Training => ("Learning", "busy"),
        SubjectState::Rendering => ("Drawing", "busy"),
        SubjectState::Assembling => ("Finishing", "busy"),
        SubjectState::Succeeded => ("Done", "good"),
        SubjectState::Failed => ("Failed", "bad"),
        SubjectState::Cancelled => ("Cancelled", "quiet"),
    }
}

/// Where a subject stands, in a sentence without its full stop.
pub(super) fn standing(subject: &v1::SubjectProgress) -> String {
    match subject.state() {
        SubjectState::Unspecified | SubjectState::Queued => "Nothing has begun".into(),
        SubjectState::Training => subject.training.as_ref().map_or_else(|| "Learning".into(), training),
        SubjectState::Rendering => subject.rendering.as_ref().map_or_else(|| "Drawing".into(), drawing),
        SubjectState::Assembling => "Making the contact sheet".into(),
        SubjectState::Succeeded => count(subject.avatars.len() as u64, "avatar"),
        SubjectState::Failed => subject.error.as_ref().map_or_else(|| "Failed".into(), |error| error.message.clone()),
        SubjectState::Cancelled => "Stopped on request, or erased".into(),
    }
}

/// Where training stands.
pub(super) fn training(training: &v1::TrainProgress) -> String {
    let v1::TrainProgress { step, max_steps, steps_per_second, .. } = training;
    let pace = if *steps_per_second > 0.0 { format!(", {steps_per_second:.1} a second") } else { String::new() };
    format!("Step {} of at most {}{pace}", grouped(u64::from(*step)), grouped(u64::from(*max_steps)))
}

fn drawing(rendering: &v1::RenderProgress) -> String {
    format!("{} of {} drawn", rendering.avatars_done, count(u64::from(rendering.avatars_total), "avatar"))
}

/// How far a subject is: done and all, in steps or avatars; `None` where nothing is to be counted.
pub(super) fn share(subject: &v1::SubjectProgress) -> Option<(u32, u32)> {
    let counted = match subject.state() {
        SubjectState::Training => subject.training.map(|training| (training.step, training.max_steps)),
        SubjectState::Rendering => subject.rendering.map(|rendering| (rendering.avatars_done, rendering.avatars_total)),
        _other => None,
    };
    counted.filter(|(_, all)| *all > 0)
}

/// A bar that says how far something is.
pub(super) fn bar(label: &str, (done, all): (u32, u32)) -> Markup {
    html! { progress aria-label=(label) value=(done) max=(all) { (done) " of " (all) } }
}

/// "1 avatar", "1,024 avatars".
pub(super) fn count(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// Digits in threes.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let commas = |(index, digit): (usize, char)| {
        let comma = index > 0 && (digits.len() - index).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(commas).collect()
}

/// Bytes, rounded.
pub(super) fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => count(bytes, "byte"),
    }
}

/// A span of seconds, in two units at most.
pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (hours, minutes) {
        (0, 0) if whole < 10 => format!("{:.1} s", seconds.max(0.0)),
        (0, 0) => format!("{rest} s"),
        (0, _) => format!("{minutes} min {rest} s"),
        _ => format!("{hours} h {minutes} min"),
    }
}

/// A moment, in UTC, to people and machines.
pub(super) fn moment(at: Option<&prost_types::Timestamp>) -> Markup {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Some(at) = at else { return html! { "–" } };
    let (year, month, day) = date(at.seconds.div_euclid(86_400));
    let seconds = at.seconds.rem_euclid(86_400);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let machine = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
    let person = format!("{day} {} {year}, {hour:02}:{minute:02} UTC", MONTHS[month as usize - 1]);
    html! { time datetime=(machine) { (person) } }
}

/// Year, month and day of a number of days since 1 January 1970 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // since 1 March of the year 0
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let years = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * years + years / 4 - years / 100);
    let months = (5 * of_year + 2) / 153; // since March
    let (day, month) = (of_year - (153 * months + 2) / 5 + 1, if months < 10 { months + 3 } else { months - 9 });
    (years + era * 400 + i64::from(month <= 2), month, day)
}

/// A prompt with the subject's name in it.
pub(super) fn prompted(prompt: &str, subject: &str) -> String {
    prompt.replace("{subject}", subject)
}

/// The end of a job's id, by which jobs of one minute differ.
pub(super) fn short(id: &str) -> &str {
    id.rsplit('-').next().unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, want) in [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_780, (2026, 11, 23)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), want, "{days}");
        }
    }

    #[test]
    fn a_moment_is_for_people_and_for_machines() {
        let at = prost_types::Timestamp { seconds: 20_780 * 86_400 + 3_723, nanos: 5 };
        let want = "<time datetime=\"2026-11-23T01:02:03Z\">23 Nov 2026, 01:02 UTC</time>";
        assert_eq!(moment(Some(&at)).into_string(), want);
        assert_eq!(moment(None).into_string(), "–");
    }

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!((count(1, "avatar"), count(2, "avatar")), ("1 avatar".into(), "2 avatars".into()));
        assert_eq!([12, 1536, 5 << 20].map(size), ["12 bytes", "1.5 KiB", "5.0 MiB"]);
        assert_eq!([1.25, 42.4, 200.0, 7_260.0].map(span), ["1.2 s", "42 s", "3 min 20 s", "2 h 1 min"]);
    }
}
