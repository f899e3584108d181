//! The prompts file: what to draw of each subject, as TOML. Everything that can be refused without the model is refused
//! here, before anything is uploaded.

use crate::exit::{Exit, Failure};
use crate::settings::nearest;
use likeness_proto::v1::{Prompt, RenderSpec};
use likeness_proto::{ErrorCode, SUBJECT_SLOT, Scheduler};
use serde::Deserialize;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

const KEYS: [&str; 10] =
    ["prompts", "prompt", "negative", "seeds", "steps", "guidance", "scheduler", "size", "width", "height"];
const PROMPT_KEYS: [&str; 2] = ["text", "seeds"];

/// Reads a prompts file into the rendering part of a job; what it leaves out stays absent.
///
/// # Errors
/// [`Exit::Prompts`] naming the file, the line and the value; `PROMPT_WITHOUT_SUBJECT` for a prompt without `{subject}`.
pub fn read(path: &Path) -> Result<RenderSpec, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::new(Exit::Prompts, format!("cannot read the prompts file {}: {error}", path.display()))
    })?;
    parse(&text).map_err(|failure| failure.about(path.display()))
}

/// Parses the text of a prompts file.
///
/// # Errors
/// As [`read`], without the file.
pub fn parse(text: &str) -> Result<RenderSpec, Failure> {
    let lines = Lines(text);
    let table = DeTable::parse(text).map_err(|error| lines.refuse(error.span(), error.message()))?;
    check_keys(&lines, table.get_ref(), &KEYS)?;
    for prompt in tables(table.get_ref().get("prompt")) {
        check_keys(&lines, prompt, &PROMPT_KEYS)?;
    }
    let file: File = toml::from_str(text).map_err(|error| lines.refuse(error.span(), error.message()))?;
    file.into_spec(&lines)
}

/// The file as written.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    prompts: Vec<Spanned<String>>,
    #[serde(default)]
    prompt: Vec<PromptTable>,
    #[serde(default)]
    negative: String,
    #[serde(default)]
    seeds: Vec<u64>,
    steps: Option<u32>,
    guidance: Option<f64>,
    scheduler: Option<Spanned<String>>,
    size: Option<Spanned<u32>>,
    width: Option<u32>,
    height: Option<u32>,
}

#[derive(Deserialize)]
struct PromptTable {
    text: Spanned<String>,
    seeds: Option<Vec<u64>>,
}

impl File {
    fn into_spec(self, lines: &Lines<'_>) -> Result<RenderSpec, Failure> {
        let scheduler = self.scheduler.map(|name| scheduler(lines, &name)).transpose()?;
        let (width, height) = match self.size {
            Some(size) if self.width.or(self.height).is_some() => {
                return Err(lines.refuse(Some(size.span()), "size stands beside width or height; give one of them"));
            }
            Some(size) => (Some(*size.get_ref()), Some(*size.get_ref())),
            None => (self.width, self.height),
        };
        let plain = self.prompts.into_iter().map(|text| PromptTable { text, seeds: None });
        let prompts: Vec<_> = plain
            .chain(self.prompt)
            .enumerate()
            .map(|(at, prompt)| prompt.into_prompt(lines, at + 1, &self.seeds))
            .collect::<Result<_, _>>()?;
        if prompts.is_empty() {
            return Err(lines.refuse(None, "there are no prompts; write `prompts = [\"a photo of {subject}\"]`"));
        }
        Ok(RenderSpec {
            prompts,
            negative_prompt: self.negative,
            steps: self.steps,
            guidance: self.guidance,
            scheduler: scheduler.map(Scheduler::encode),
            width,
            height,
        })
    }
}

impl PromptTable {
    fn into_prompt(self, lines: &Lines<'_>, number: usize, seeds: &[u64]) -> Result<Prompt, Failure> {
        let text = self.text.get_ref();
        if !text.contains(SUBJECT_SLOT) {
            let line = lines.line_of(self.text.span());
            return Err(Failure::refused(
                ErrorCode::PromptWithoutSubject,
                format!(
                    "line {line}: prompt {number}, `{text}`, does not hold {SUBJECT_SLOT}; put it where the subject stands"
                ),
            ));
        }
        Ok(Prompt { seeds: self.seeds.unwrap_or_else(|| seeds.to_vec()), text: self.text.into_inner() })
    }
}

fn scheduler(lines: &Lines<'_>, name: &Spanned<String>) -> Result<Scheduler, Failure> {
    let known: Vec<_> = Scheduler::ALL.iter().map(|scheduler| scheduler.as_str()).collect();
    name.get_ref().parse().map_err(|_| lines.refuse(Some(name.span()), &unknown("scheduler", name.get_ref(), &known)))
}

fn check_keys(lines: &Lines<'_>, table: &DeTable<'_>, known: &[&str]) -> Result<(), Failure> {
    match table.keys().find(|key| !known.contains(&key.get_ref().as_ref())) {
        Some(key) => Err(lines.refuse(Some(key.span()), &unknown("key", key.get_ref(), known))),
        None => Ok(()),
    }
}

fn unknown(kind: &str, name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("unknown {kind} `{name}`; did you mean `{near}`?"),
        None => format!("unknown {kind} `{name}`; known are {}", known.join(", ")),
    }
}

fn tables<'a>(value: Option<&'a Spanned<DeValue<'a>>>) -> impl Iterator<Item = &'a DeTable<'a>> {
    let entries = value.and_then(|value| value.get_ref().as_array()).map(|array| array.iter()).into_iter().flatten();
    entries.filter_map(|entry| entry.get_ref().as_table())
}

/// Finds the line of a place in the text.
struct Lines<'a>(&'a str);

impl Lines<'_> {
    fn line_of(&self, span: Range<usize>) -> usize {
        1 + self.0.bytes().take(span.start).filter(|byte| *byte == b'\n').count()
    }

    fn refuse(&self, span: Option<Range<usize>>, message: &str) -> Failure {
        let message = message.lines().collect::<Vec<_>>().join(", ");
        match span {
            Some(span) => Failure::new(Exit::Prompts, format!("line {}: {message}", self.line_of(span))),
            None => Failure::new(Exit::Prompts, message),
        }
    }
}

#[cfg(test)]
mod tests;
