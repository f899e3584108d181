use proptest::prelude::*;

use super::{adamw, direction, *};

const NORM: f32 = 0.23;

fn one(values: &[f32]) -> Optimizer {
    Optimizer::start(Parameterization::Direction, values, values, NORM)
}

#[test]
fn a_direction_step_is_the_papers_formula() {
    // v = (1, 0), μ = v, e = 0.5·v, ∂L/∂e = (3, 4): ∂L/∂v = (1.5, 2) − κμ, tangent (0, 2), step (0, 1)·0.1, normalised.
    let mut optimizer = Optimizer::start(Parameterization::Direction, &[2.0, 0.0], &[5.0, 0.0], 0.5);
    optimizer.step(0, &[3.0, 4.0], 0.1);
    let length = 1.01f32.sqrt();
    let rows = optimizer.rows();
    assert!((rows[0] - 0.5 / length).abs() < 1e-7 && (rows[1] + 0.05 / length).abs() < 1e-7, "{rows:?}");
}

#[test]
fn without_a_loss_the_prior_pulls_home() {
    let mut optimizer = Optimizer::start(Parameterization::Direction, &[0.0, 1.0], &[1.0, 0.0], NORM);
    optimizer.step(0, &[0.0, 0.0], 0.01);
    assert!(optimizer.rows()[0] > 0.0, "{:?}", optimizer.rows());
}

#[test]
fn a_row_without_a_gradient_stays() {
    let mut optimizer = one(&[0.6, 0.8]);
    let before = optimizer.clone();
    optimizer.step(0, &[0.0, 0.0], 0.1); // μ = v, so the prior has no tangent part either
    assert_eq!(optimizer, before);
}

proptest! {
    #[test]
    fn directions_stay_on_the_sphere_and_steps_in_the_tangent_space(
        row in prop::collection::vec(-1.0f32..1.0, 16),
        gradient in prop::collection::vec(-1.0f32..1.0, 16),
        rate in 0.001f64..0.5,
    ) {
        prop_assume!(length(&row) > 0.1);
        let mut optimizer = one(&row);
        if let Optimizer::Direction(direction) = &optimizer {
            let tangent = direction::tangent_at(direction, &gradient);
            prop_assert!(dot(&tangent, direction.directions()).abs() < 1e-6);
        }
        let before = optimizer.rows();
        optimizer.step(0, &gradient, rate);
        let after = optimizer.rows();
        prop_assert!((length(&after) / f64::from(NORM) - 1.0).abs() < 1e-5);
        let cosine = dot(&before, &after) / length(&before) / length(&after);
        let turned = cosine.min(1.0).acos();
        prop_assert!((turned - rate.atan()).abs() < 2e-3, "turned {turned} at rate {rate}");
    }
}

#[test]
fn adamw_follows_pytorch() {
    // torch.optim.AdamW([p], lr=0.01, weight_decay=1e-2), PyTorch 2.9.1.
    let mut adamw = adamw::AdamW::within(&[0.30, -0.40, 0.10, 0.05, 0.20, -0.25], 3, (0.0, f64::INFINITY));
    let gradients =
        [[0.5, -1.0, 0.25, 1e-3, 2e-3, -3e-3], [-0.5, 0.75, 0.1, 4e-3, -1e-3, 0.0], [0.2, 0.2, -0.4, 0.0, 1e-3, 2e-3]];
    let wanted = [
        [0.28997f32, -0.38996002, 0.089990005, 0.039995104, 0.18998006, -0.23997504],
        [0.29046732, -0.38902777, 0.080995254, 0.031147368, 0.1872977, -0.23325048],
        [0.2890899, -0.38931713, 0.082411766, 0.024308028, 0.18278997, -0.23246478],
    ];
    for (step, (gradient, wanted)) in (0..).zip(gradients.iter().zip(wanted)) {
        adamw.step(step, gradient, 0.01);
        for (got, wanted) in adamw.rows().iter().zip(wanted) {
            assert!((got - wanted).abs() < 1e-7, "step {step}: {got} for {wanted}");
        }
    }
}

#[test]
fn adamw_holds_the_norm_near_the_vocabularys() {
    let mut optimizer = Optimizer::start(Parameterization::Adamw, &[3.0, 4.0, 0.003, 0.004], &[1.0, 0.0], NORM);
    for step in 0..50 {
        for row in optimizer.rows().chunks(2) {
            let ratio = length(row) / f64::from(NORM);
            assert!((0.7499..1.2501).contains(&ratio), "{ratio} after {step} steps");
        }
        optimizer.step(step, &[1.0, -1.0, -2.0, 0.5], 0.1);
    }
}

#[test]
fn the_rate_grows_with_the_root_of_the_batch() {
    assert_eq!(effective_rate(0.05, REFERENCE_BATCH), 0.05);
    assert_eq!(effective_rate(0.05, 32), 0.1);
    assert_eq!(effective_rate(0.05, 2), 0.025);
}

#[test]
fn a_state_resumes_only_in_its_own_optimizer() {
    let rows = [0.1, 0.2, 0.3, 0.4];
    for (kind, other) in
        [(Parameterization::Direction, Parameterization::Adamw), (Parameterization::Adamw, Parameterization::Direction)]
    {
        let fresh = Optimizer::start(kind, &rows, &[1.0, 1.0], NORM);
        let mut moved = fresh.clone();
        moved.step(0, &[1.0, 0.5, -0.5, 0.25], 0.05);
        assert_eq!(fresh.resume(moved.state()), Some(moved.clone()));
        assert_eq!(Optimizer::start(other, &rows, &[1.0, 1.0], NORM).resume(moved.state()), None);
        assert_eq!(Optimizer::start(kind, &rows[..2], &[1.0, 1.0], NORM).resume(moved.state()), None);
    }
}
