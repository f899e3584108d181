//! Whose task is next: weighted fair queueing (Demers, Keshav, Shenker, "Analysis and simulation of a fair queueing
//! algorithm", 1989) over the tenants that wait for workers of a kind.
//!
//! Every tenant in a queue has a turn: the virtual time at which its next task, if that is like the last, would be done, were all
//! tenants served at the same time in proportion to their weights. The earliest goes first, and its turn moves on by what the task
//! costs, divided by its weight. Who comes to a queue begins when the one furthest behind began, so that having been away earns
//! nothing and costs nothing.

use likeness_proto::TaskKind;

/// The kinds of a claim in the order in which they are served: first those that bring a subject nearest to its end, and previews, which
/// nobody waits for, with what room is left.
pub(crate) fn in_order(kinds: &[TaskKind]) -> Vec<TaskKind> {
    let mut kinds = kinds.to_vec();
    kinds.sort_unstable_by_key(|kind| match kind {
        TaskKind::Assemble => 0,
        TaskKind::Render => 1,
        TaskKind::Train => 2,
        TaskKind::Preview => 3,
    });
    kinds
}

/// Virtual time that a task of cost 1 takes a tenant of weight 1.
pub(crate) const UNIT: i64 = 1024;

/// How far a task moves its tenant's turn.
pub(crate) fn price(cost: u32, weight: u32) -> i64 {
    i64::from(cost.max(1)) * UNIT / i64::from(weight.max(1))
}

/// A tenant that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    /// When its next task begins, in virtual time.
    pub(crate) begun: i64,
    /// When it would be done.
    pub(crate) turn: i64,
    /// Its share of the workers, against the others'.
    pub(crate) weight: u32,
    /// Tasks that it may still be given now.
    pub(crate) room: u32,
}

/// Tasks being dealt to tenants, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Deal(Vec<Contender>);

impl Deal {
    pub(crate) fn new(contenders: Vec<Contender>) -> Self {
        Self(contenders)
    }

    /// Whose turn it is; `None`: nobody's who has room left.
    pub(crate) fn next(&self) -> Option<usize> {
        let waiting = self.0.iter().enumerate().filter(|(_, contender)| contender.room > 0);
        waiting.min_by_key(|(index, contender)| (contender.turn, *index)).map(|(index, _)| index)
    }

    /// Tells that a tenant was given a task.
    pub(crate) fn served(&mut self, index: usize, cost: u32) {
        let contender = &mut self.0[index];
        contender.room -= 1;
        contender.begun = contender.turn;
        contender.turn += price(cost, contender.weight);
    }

    /// Tells that a tenant has no task that waits.
    pub(crate) fn out(&mut self, index: usize) {
        self.0[index].room = 0;
    }

    /// Where a tenant stands by now.
    pub(crate) fn contender(&self, index: usize) -> Contender {
        self.0[index]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Who comes when virtual time is `begun`.
    fn newcomer(begun: i64, weight: u32) -> Contender {
        Contender { begun, turn: begun + price(1, weight), weight, room: 1000 }
    }

    /// Tenants with tasks of cost 1 that wait for one worker.
    struct Tenants {
        weights: Vec<u32>,
        tasks: Vec<u32>,
    }

    impl Tenants {
        /// When each tenant's last task begins, counted in tasks, if the policy decides.
        fn waits(&self) -> Vec<f64> {
            let contender = |(weight, tasks): (&u32, &u32)| Contender { room: *tasks, ..newcomer(0, *weight) };
            let mut deal = Deal::new(self.weights.iter().zip(&self.tasks).map(contender).collect());
            let mut waits = vec![0.0; self.tasks.len()];
            let mut now = 0.0;
            while let Some(next) = deal.next() {
                waits[next] = now;
                now += 1.0;
                deal.served(next, 1);
            }
            waits
        }

        /// When each tenant's last task ends if all are served at the same time, in proportion to their weights.
        fn fair(&self) -> Vec<f64> {
            let mut left: Vec<f64> = self.tasks.iter().map(|tasks| f64::from(*tasks)).collect();
            let (mut ends, mut now) = (vec![0.0; left.len()], 0.0);
            loop {
                let waiting: Vec<usize> = (0..left.len()).filter(|tenant| left[*tenant] > 0.0).collect();
                let weight: f64 = waiting.iter().map(|tenant| f64::from(self.weights[*tenant])).sum();
                let span = |tenant: &usize| left[*tenant] * weight / f64::from(self.weights[*tenant]);
                let Some(first) = waiting.iter().copied().min_by(|a, b| span(a).total_cmp(&span(b))) else {
                    return ends;
                };
                let passed = span(&first);
                now += passed;
                for tenant in waiting {
                    left[tenant] -= passed * f64::from(self.weights[tenant]) / weight;
                    if tenant == first || left[tenant] < 1e-9 {
                        (left[tenant], ends[tenant]) = (0.0, now);
                    }
                }
            }
        }
    }

    #[test]
    fn a_tenant_with_a_hundred_thousand_tasks_makes_nobody_wait_twice_their_fair_share() {
        let tasks: Vec<u32> = [100_000].into_iter().chain([10; 999]).collect();
        let tenants = Tenants { weights: vec![1; tasks.len()], tasks };
        let worst = tenants.waits().iter().zip(tenants.fair()).map(|(wait, fair)| wait / fair).fold(0.0, f64::max);
        assert!(worst <= 2.0, "somebody waited {worst} times their fair share");
    }

    #[test]
    fn a_tenant_of_three_times_the_weight_gets_three_times_the_tasks() {
        let mut deal = Deal::new(vec![newcomer(0, 1), newcomer(0, 3)]);
        let mut served = [0, 0];
        for _ in 0..400 {
            let next = deal.next().unwrap();
            served[next] += 1;
            deal.served(next, 1);
        }
        assert_eq!(served, [100, 300]);
    }

    #[test]
    fn who_asks_for_longer_work_is_served_as_much_less_often() {
        let mut deal = Deal::new(vec![newcomer(0, 1); 2]);
        let mut served = [0, 0];
        for _ in 0..110 {
            let next = deal.next().unwrap();
            served[next] += 1;
            deal.served(next, [1, 10][next]);
        }
        assert_eq!(served, [100, 10]);
    }

    #[test]
    fn nobody_is_given_more_than_there_is_room_for() {
        let small = Contender { room: 2, ..newcomer(0, 1000) };
        let mut deal = Deal::new(vec![small, newcomer(9999, 1)]);
        let mut served = Vec::new();
        while let Some(next) = deal.next() {
            served.push(next);
            deal.served(next, 1);
            if served.len() == 4 {
                deal.out(1);
            }
        }
        assert_eq!(served, [0, 0, 1, 1]);
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_twice_their_fair_share(
            (weights, tasks) in (2..60_usize).prop_flat_map(|count| (
                proptest::collection::vec(1..20_u32, count),
                proptest::collection::vec(1..200_u32, count),
            ))
        ) {
            let tenants = Tenants { weights, tasks };
            for (wait, fair) in tenants.waits().into_iter().zip(tenants.fair()) {
                prop_assert!(wait <= 2.0 * fair, "{wait} of {fair}");
            }
        }
    }
}
