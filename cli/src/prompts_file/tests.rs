use super::*;

fn refusal(text: &str) -> Failure {
    parse(text).unwrap_err()
}

#[test]
fn a_list_of_prompts_is_enough() {
    let spec = parse("prompts = ['a photo of {subject}', '{subject} smiling']").unwrap();
    assert_eq!(spec.prompts.len(), 2);
    assert_eq!(spec.prompts[1].text, "{subject} smiling");
    assert!(spec.prompts[0].seeds.is_empty() && spec.steps.is_none() && spec.width.is_none());
}

#[test]
fn everything_can_be_said() {
    let spec = parse(
        r#"
        prompts = ["a photo of {subject}"]
        negative = "blurry"
        seeds = [1, 2]
        steps = 30
        guidance = 5.0
        scheduler = "euler_ancestral"
        width = 128
        height = 256

        [[prompt]]
        text = "pixel art of {subject}"
        seeds = [7]
        "#,
    )
    .unwrap();
    assert_eq!(spec.prompts[0].seeds, [1, 2]);
    assert_eq!(spec.prompts[1].seeds, [7]);
    assert_eq!(spec.negative_prompt, "blurry");
    assert_eq!((spec.steps, spec.guidance), (Some(30), Some(5.0)));
    assert_eq!(spec.scheduler, Some(Scheduler::EulerAncestral.encode()));
    assert_eq!((spec.width, spec.height), (Some(128), Some(256)));
}

#[test]
fn size_is_both_sides() {
    let spec = parse("prompts = ['{subject}']\nsize = 128").unwrap();
    assert_eq!((spec.width, spec.height), (Some(128), Some(128)));
    let failure = refusal("prompts = ['{subject}']\nsize = 128\nwidth = 64");
    assert!(failure.message.starts_with("line 2: size stands beside"), "{failure}");
}

#[test]
fn a_prompt_without_subject_is_named_with_its_line() {
    let failure = refusal("prompts = [\n  'a photo of {subject}',\n  'a photo of a cat',\n]");
    assert_eq!(failure.exit, Exit::Refused(ErrorCode::PromptWithoutSubject));
    assert!(failure.message.starts_with("line 3: prompt 2, `a photo of a cat`"), "{failure}");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest() {
    let failure = refusal("prompts = ['{subject}']\nguidence = 4");
    assert_eq!(failure.exit, Exit::Prompts);
    assert_eq!(failure.message, "line 2: unknown key `guidence`; did you mean `guidance`?");
    let failure = refusal("[[prompt]]\ntext = '{subject}'\nseed = [1]");
    assert_eq!(failure.message, "line 3: unknown key `seed`; did you mean `seeds`?");
}

#[test]
fn an_unknown_scheduler_is_named_with_the_known_ones() {
    let failure = refusal("prompts = ['{subject}']\nscheduler = 'k_lms'");
    assert!(failure.message.contains("`k_lms`; known are ddim, euler_ancestral, unipc"), "{failure}");
}

#[test]
fn values_of_the_wrong_kind_are_named_with_their_line() {
    let failure = refusal("prompts = ['{subject}']\nsteps = 'many'");
    assert!(failure.exit == Exit::Prompts && failure.message.starts_with("line 2: "), "{failure}");
    assert_eq!(refusal("prompts = ['{subject}']\nseeds = [-1]").exit, Exit::Prompts);
    assert_eq!(refusal("prompts = [").exit, Exit::Prompts);
}

#[test]
fn a_file_without_prompts_is_refused() {
    let failure = refusal("steps = 3");
    assert!(failure.message.contains("no prompts"), "{failure}");
}
