//! Which base model a job uses.

use likeness_proto::{BaseModel, ErrorCode, ModelDigest, Refusal};

/// The model asked for, or the only one there is, among those that the fleet holds.
pub(crate) fn choose<'a>(held: &'a [BaseModel], wanted: Option<&ModelDigest>) -> Result<&'a BaseModel, Refusal> {
    match (wanted, held) {
        (None, [only]) => Ok(only),
        (None, []) => Err(unavailable("no worker has registered a base model yet; start a trainer and a sampler")),
        (None, [_, _, ..]) => {
            let message = format!("the fleet holds several base models; name one of them: {}", names(held));
            Err(Refusal::invalid(message))
        }
        (Some(digest), _) => held.iter().find(|model| model.digest == *digest).ok_or_else(|| {
            let held = if held.is_empty() { "none".to_owned() } else { names(held) };
            unavailable(&format!("no worker holds base model {digest}; held: {held}"))
        }),
    }
}

fn unavailable(message: &str) -> Refusal {
    Refusal::new(ErrorCode::ModelUnavailable, message)
}

fn names(models: &[BaseModel]) -> String {
    let each: Vec<_> = models.iter().map(|model| format!("{} ({})", model.digest, model.name)).collect();
    each.join(", ")
}

#[cfg(test)]
mod tests {
    use likeness_proto::ModelFacts;

    use super::*;

    fn model(digit: char) -> BaseModel {
        let digest = format!("sha256:{}", digit.to_string().repeat(64)).parse().unwrap();
        BaseModel { digest, name: format!("model-{digit}"), facts: ModelFacts { native_size: 64, factor: 8 } }
    }

    #[test]
    fn the_only_model_needs_no_name() {
        assert_eq!(choose(&[model('a')], None), Ok(&model('a')));
    }

    #[test]
    fn of_several_models_one_must_be_named() {
        let held = [model('a'), model('b')];
        let refusal = choose(&held, None).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidArgument);
        assert!(refusal.message.contains("model-a") && refusal.message.contains("model-b"), "{}", refusal.message);
        assert_eq!(choose(&held, Some(&model('b').digest)), Ok(&model('b')));
    }

    #[test]
    fn a_model_that_nobody_holds_is_refused_and_the_held_ones_named() {
        let held = [model('a')];
        let refusal = choose(&held, Some(&model('c').digest)).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::ModelUnavailable);
        assert!(refusal.message.contains(model('c').digest.as_str()) && refusal.message.contains("model-a"));
        assert_eq!(choose(&[], None).unwrap_err().code, ErrorCode::ModelUnavailable);
    }
}
