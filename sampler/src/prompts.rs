//! Prompts with `{subject}`, as the text encoder reads them.

use likeness_diffusion::{Placeholder, Prompt, TokenizeError, Tokenizer};
use likeness_proto::{ErrorCode, Refusal, SUBJECT_SLOT};

/// Encodes a prompt in which `{subject}` stands for `vectors` learned rows. What did not fit is in [`Prompt::cut`].
///
/// # Errors
/// [`ErrorCode::PromptTooLong`] where not all of the subject's rows fit.
pub fn encode(tokenizer: &Tokenizer, text: &str, vectors: usize) -> Result<Prompt, Refusal> {
    let placeholder = Placeholder { token: SUBJECT_SLOT.to_owned(), vectors };
    tokenizer.encode(text, Some(&placeholder)).map_err(|error| refusal(text, error))
}

/// Encodes a prompt without a subject: the negative one.
///
/// # Errors
/// [`ErrorCode::InvalidArgument`] where the text has no encoding.
pub fn encode_plain(tokenizer: &Tokenizer, text: &str) -> Result<Prompt, Refusal> {
    tokenizer.encode(text, None).map_err(|error| refusal(text, error))
}

fn refusal(text: &str, error: TokenizeError) -> Refusal {
    let code = match &error {
        TokenizeError::PlaceholderCut { .. } | TokenizeError::BadPlaceholder { .. } => ErrorCode::PromptTooLong,
        _no_encoding => ErrorCode::InvalidArgument,
    };
    Refusal::new(code, format!("prompt {text:?} cannot be drawn: {error}"))
}

/// A sentence on what was cut off a prompt, if anything was. `what` names it: "prompt", "negative prompt".
pub fn cut_notice(what: &str, text: &str, prompt: &Prompt) -> Option<String> {
    let cut = prompt.cut.as_ref()?;
    Some(format!("{what} {text:?} is longer than the {} tokens that the model reads; cut: {cut:?}", prompt.ids.len()))
}
