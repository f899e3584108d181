//! A loss curve as a picture that the server draws, with the same in words and numbers.

use likeness_proto::v1::{Evaluation, LossCurve};
use maud::{Markup, html};

use super::words::grouped;

/// The picture's own units.
const WIDTH: f32 = 720.0;
const HEIGHT: f32 = 240.0;
/// Room for the numbers on the left and below.
const LEFT: f32 = 56.0;
const BELOW: f32 = 28.0;
const TOP: f32 = 12.0;
const RIGHT: f32 = 16.0;
/// Points of a line at most: a pixel or three for each.
const POINTS: usize = 240;

/// A loss after so many steps.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    step: f32,
    loss: f32,
}

/// The curve of `subject`; `None` while there is nothing to draw.
pub(super) fn curve(id: &str, subject: &str, curve: &LossCurve) -> Option<Markup> {
    let (losses, measured) = (smoothed(curve), measured(&curve.evaluations));
    let all = || losses.iter().chain(&measured);
    let last = all().map(|point| point.step).fold(0.0, f32::max);
    let (least, most) =
        all().fold((f32::INFINITY, 0.0_f32), |(least, most), point| (least.min(point.loss), most.max(point.loss)));
    if last <= 0.0 || losses.len() + measured.len() < 2 {
        return None;
    }
    let scale = Scale { last, marks: marks(least, most) };
    let words = in_words(curve);
    Some(html! {
        figure.curve {
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-labelledby={ (id) "-title " (id) "-words" } {
                title id={ (id) "-title" } { "Loss while learning " (subject) }
                @for mark in &scale.marks {
                    line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(scale.y(*mark)) y2=(scale.y(*mark)) {}
                    text.mark.start x=(LEFT - 8.0) y=(scale.y(*mark) + 4.0) { (short(*mark)) }
                }
                @for step in [0.0, last] {
                    text.mark.middle x=(scale.x(step)) y=(HEIGHT - 8.0) { (grouped(step as u64)) }
                }
                text.mark.middle x=(scale.x(last / 2.0)) y=(HEIGHT - 8.0) { "steps" }
                polyline.losses points=(scale.points(&losses)) {}
                polyline.measured points=(scale.points(&measured)) {}
                @for point in &measured { circle.dot cx=(scale.x(point.step)) cy=(scale.y(point.loss)) r="3.5" {} }
            }
            figcaption {
                p.keys aria-hidden="true" {
                    span.key.losses { (if stretch(curve) > 1 { "training, smoothed" } else { "training" }) }
                    @if !measured.is_empty() { span.key.measured { "fixed evaluation set" } }
                }
                p id={ (id) "-words" } { (words) }
                @if !measured.is_empty() { (table(subject, &curve.evaluations)) }
            }
        }
    })
}

/// The measurements as numbers.
fn table(subject: &str, evaluations: &[Evaluation]) -> Markup {
    html! {
        details {
            summary { "The measurements as numbers" }
            table {
                caption.sr { "Loss of " (subject) " on the evaluation set" }
                thead { tr { th scope="col" { "Step" } th scope="col" { "Loss" } } }
                tbody { @for Evaluation { step, loss } in evaluations.iter().filter(|one| one.loss.is_finite()) {
                    tr { th scope="row" { (step) } td { (short(*loss)) } }
                } }
            }
        }
    }
}

/// Losses that are shown as their mean.
fn stretch(curve: &LossCurve) -> usize {
    curve.losses.len().div_ceil(POINTS).max(1)
}

/// The training losses, as means of equal stretches; a loss that is no number is left out.
fn smoothed(curve: &LossCurve) -> Vec<Point> {
    let stretch = stretch(curve);
    let mean = |(index, losses): (usize, &[f32])| {
        let finite: Vec<f32> = losses.iter().copied().filter(|loss| loss.is_finite()).collect();
        let middle = curve.first_step as f32 + (index * stretch) as f32 + (losses.len() - 1) as f32 / 2.0;
        let loss = finite.iter().sum::<f32>() / finite.len() as f32;
        loss.is_finite().then_some(Point { step: middle, loss })
    };
    curve.losses.chunks(stretch).enumerate().filter_map(mean).collect()
}

fn measured(evaluations: &[Evaluation]) -> Vec<Point> {
    let point = |Evaluation { step, loss }: &Evaluation| Point { step: *step as f32, loss: *loss };
    evaluations.iter().map(point).filter(|point| point.loss.is_finite()).collect()
}

/// From steps and losses to the picture.
struct Scale {
    last: f32,
    /// Rising, at least two, around all losses.
    marks: Vec<f32>,
}

impl Scale {
    fn x(&self, step: f32) -> f32 {
        round(LEFT + (WIDTH - LEFT - RIGHT) * step / self.last)
    }

    fn y(&self, loss: f32) -> f32 {
        let (least, most) = (self.marks[0], self.marks[self.marks.len() - 1]);
        round(TOP + (HEIGHT - TOP - BELOW) * (most - loss) / (most - least))
    }

    fn points(&self, line: &[Point]) -> String {
        line.iter().map(|point| format!("{},{}", self.x(point.step), self.y(point.loss))).collect::<Vec<_>>().join(" ")
    }
}

fn round(place: f32) -> f32 {
    (place * 10.0).round() / 10.0
}

/// Three to six round numbers that enclose both.
fn marks(least: f32, most: f32) -> Vec<f32> {
    let spread = (most - least).max(most.abs() * 0.01).max(1e-6);
    let power = 10_f32.powf((spread / 4.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| spread / step <= 4.0);
    let step = step.unwrap_or(10.0 * power);
    let first = (least / step).floor();
    let last = (most / step).ceil().max(first + 1.0);
    (0..=(last - first) as usize).map(|index| (first + index as f32) * step).collect()
}

fn short(loss: f32) -> String {
    let text = format!("{loss:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What the picture shows, for those who do not see it.
fn in_words(curve: &LossCurve) -> String {
    let steps = (curve.first_step as u64 + curve.losses.len() as u64).saturating_sub(1);
    let mut words = format!("{} steps so far.", grouped(steps));
    let measured: Vec<&Evaluation> = curve.evaluations.iter().filter(|one| one.loss.is_finite()).collect();
    let best = measured.iter().min_by(|a, b| a.loss.total_cmp(&b.loss));
    if let (Some(first), Some(best)) = (measured.first(), best) {
        words = format!(
            "{} steps. On the evaluation set the loss began at {} and was least after step {}: {}.",
            grouped(steps),
            short(first.loss),
            best.step,
            short(best.loss)
        );
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(losses: Vec<f32>, evaluations: Vec<(u32, f32)>) -> Option<String> {
        let evaluations = evaluations.into_iter().map(|(step, loss)| Evaluation { step, loss }).collect();
        curve("c", "ada", &LossCurve { first_step: 1, losses, evaluations }).map(Markup::into_string)
    }

    #[test]
    fn a_curve_is_drawn_and_told_in_words() {
        let text = drawn(vec![0.5, 0.25, 0.125], vec![(0, 0.4), (3, 0.2)]).unwrap();
        assert!(text.contains("the loss began at 0.4 and was least after step 3: 0.2."), "{text}");
        assert!(text.contains("<title id=\"c-title\">Loss while learning ada</title>"), "{text}");
        assert_eq!(text.matches("<circle").count(), 2);
        assert!(text.contains(">training<"), "{text}");
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert_eq!(drawn(vec![], vec![]), None);
        assert_eq!(drawn(vec![], vec![(0, 0.4)]), None);
        assert_eq!(drawn(vec![f32::NAN, f32::INFINITY], vec![]), None);
    }

    #[test]
    fn losses_that_are_no_numbers_do_not_spoil_the_picture() {
        let text = drawn(vec![0.5, f32::NAN, 0.3, f32::NEG_INFINITY], vec![(0, f32::NAN), (2, 0.4)]).unwrap();
        assert!(!text.contains("NaN") && !text.contains("inf,") && !text.contains(",inf"), "{text}");
    }

    #[test]
    fn a_long_training_is_as_short_a_picture() {
        let text = drawn((0..100_000).map(|step| 1.0 / (step + 1) as f32).collect(), vec![]).unwrap();
        assert!(text.len() < 6_000 && text.contains(">training, smoothed<"), "{}", text.len());
    }

    #[test]
    fn marks_are_round_and_enclose_what_there_is() {
        for (least, most) in [(0.0, 1.0), (0.083, 0.171), (0.1, 0.1), (0.0, 0.0), (1e-9, 3e5), (0.24, 0.26)] {
            let marks = marks(least, most);
            assert!((2..=7).contains(&marks.len()), "{least} {most} {marks:?}");
            assert!(marks[0] <= least + 1e-6 && *marks.last().unwrap() >= most * 0.9999, "{least} {most} {marks:?}");
        }
    }
}
