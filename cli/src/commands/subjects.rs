//! Commands about subjects: list, forget.

use super::Context;
use crate::exit::{Exit, Failure};
use crate::view::{ReceiptView, SubjectView, receipt, subject_list};
use std::io::{BufRead, IsTerminal};

pub(super) async fn list(context: &Context) -> Result<(), Failure> {
    let subjects: Vec<_> = context.client()?.subjects().await?.iter().map(SubjectView::from).collect();
    context.format.print(&subjects, |subjects| subject_list(subjects))
}

/// Erases a subject, after asking when somebody is there to answer.
pub(super) async fn forget(context: &Context, name: &str, yes: bool) -> Result<(), Failure> {
    let input = std::io::stdin();
    if !yes && input.is_terminal() {
        context.console.say(format!("erase all photos, embeddings and avatars of {name}, for good? [y/N]"));
        confirmed(&mut input.lock(), name)?;
    }
    let erased = context.client()?.forget(name).await?;
    context.format.print(&ReceiptView::from(&erased), receipt)
}

fn confirmed(input: &mut impl BufRead, name: &str) -> Result<(), Failure> {
    let mut answer = String::new();
    input.read_line(&mut answer).map_err(Failure::unexpected)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::NotConfirmed, format!("{name} was not erased; answer y, or give --yes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_erases() {
        for answer in ["y\n", "YES\n"] {
            confirmed(&mut answer.as_bytes(), "ada").unwrap();
        }
        for answer in ["", "\n", "n\n", "yeah\n"] {
            assert_eq!(confirmed(&mut answer.as_bytes(), "ada").unwrap_err().exit, Exit::NotConfirmed);
        }
    }
}
