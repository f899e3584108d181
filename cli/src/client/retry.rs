//! When a call is worth another try, and how long to wait for it.

use super::Target;
use crate::exit::{Exit, Failure};
use crate::telemetry::Console;
use likeness_proto::{ErrorCode, Refusal};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server or the transport says so.
    Status(Status),
    /// It lies on this side; no other attempt will help.
    Local(Failure),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::Local(failure)
    }
}

/// Waits between attempts, until the budget since the last answer is spent.
pub(super) struct Patience<'a> {
    budget: Duration,
    console: &'a Console,
    since: Option<Instant>,
    wait: Duration,
}

impl<'a> Patience<'a> {
    pub(super) fn new(budget: Duration, console: &'a Console) -> Self {
        Self { budget, console, since: None, wait: FIRST_WAIT }
    }

    /// The server answered: the budget is whole again.
    pub(super) fn renew(&mut self) {
        if self.since.take().is_some() {
            self.console.say("the server answers again");
        }
        self.wait = FIRST_WAIT;
    }

    /// Waits until another attempt is due.
    ///
    /// # Errors
    /// The failure that `fault` is, when another attempt would not help or the budget is spent.
    pub(super) async fn after(&mut self, fault: Fault, target: &Target) -> Result<(), Failure> {
        let status = match fault {
            Fault::Local(failure) => return Err(failure),
            Fault::Status(status) if passes(&status) => status,
            Fault::Status(status) => return Err(Refusal::read(&status).into()),
        };
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let asked = Refusal::try_from(&status).ok().and_then(|refusal| refusal.retry_after);
        let wait = asked.unwrap_or_default().max(self.wait);
        if now + wait > since + self.budget {
            return Err(self.given_up(&status, target));
        }
        if since == now {
            self.announce(&status, target);
        }
        sleep(wait).await;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        Ok(())
    }

    fn announce(&self, status: &Status, target: &Target) {
        let server = target.uri().map_or_else(|_| String::new(), |uri| format!(" at {uri}"));
        let what = match Refusal::try_from(status) {
            Ok(refusal) => format!("says: {refusal}"),
            Err(_) => "does not answer".to_owned(),
        };
        self.console.say(format!("the server{server} {what}; trying for {} s", self.budget.as_secs()));
    }

    fn given_up(&self, status: &Status, target: &Target) -> Failure {
        if let Ok(refusal) = Refusal::try_from(status) {
            return refusal.into();
        }
        let server = target.uri().map_or_else(|_| String::new(), |uri| format!(" at {uri}"));
        let after = self.budget.as_secs();
        Failure::new(
            Exit::Unreachable,
            format!(
                "the server{server} does not answer (tried for {after} s): {}; start it with `likeness up`, or name another with --server",
                reason(status)
            ),
        )
    }
}

/// Whether the same call may succeed a little later.
fn passes(status: &Status) -> bool {
    match Refusal::try_from(status) {
        Ok(refusal) => {
            refusal.retry_after.is_some()
                || matches!(refusal.code, ErrorCode::Unavailable | ErrorCode::StorageUnavailable)
        }
        // Without a detail it is the transport that speaks: the connection broke, or none came about.
        Err(_) => matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded
        ),
    }
}

/// The innermost cause, which says more than "transport error".
fn reason(status: &Status) -> String {
    let mut source = std::error::Error::source(status);
    let mut innermost = None;
    while let Some(error) = source {
        innermost = Some(error.to_string());
        source = error.source();
    }
    innermost.unwrap_or_else(|| status.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use likeness_proto::Secret;

    fn target() -> Target {
        Target::at("127.0.0.1:1".parse().unwrap(), Secret::new("t").unwrap()).unwrap()
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert!(passes(&Status::unavailable("connection refused")));
        assert!(passes(&Status::unknown("h2 protocol error")));
        assert!(passes(&Refusal::new(ErrorCode::Unavailable, "shutting down").into()));
        assert!(!passes(&Refusal::new(ErrorCode::Internal, "a bug").into()));
        assert!(!passes(&Status::unauthenticated("no token")));
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_ends_the_waiting() {
        let console = Console::plain();
        let mut patience = Patience::new(Duration::from_secs(10), &console);
        let begun = Instant::now();
        let mut attempts = 0;
        let failure = loop {
            attempts += 1;
            if let Err(failure) = patience.after(Status::unavailable("refused").into(), &target()).await {
                break failure;
            }
        };
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.message.contains("http://127.0.0.1:1"), "{failure}");
        assert!((5..20).contains(&attempts), "{attempts}");
        assert!((Duration::from_secs(7)..=Duration::from_secs(10)).contains(&begun.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_makes_the_budget_whole_again() {
        let console = Console::plain();
        let mut patience = Patience::new(Duration::from_secs(1), &console);
        for _ in 0..10 {
            patience.after(Status::unavailable("refused").into(), &target()).await.unwrap();
            patience.renew();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_left_alone_for_as_long_as_it_asks() {
        let console = Console::plain();
        let mut patience = Patience::new(Duration::from_secs(10), &console);
        let begun = Instant::now();
        let busy = || Refusal::new(ErrorCode::Overloaded, "busy").retry_after(Duration::from_secs(7));
        patience.after(Status::from(busy()).into(), &target()).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(7));
        let failure = patience.after(Status::from(busy()).into(), &target()).await.unwrap_err();
        assert_eq!((failure.exit, begun.elapsed()), (Exit::Refused(ErrorCode::Overloaded), Duration::from_secs(7)));
    }

    #[tokio::test]
    async fn a_refusal_is_handed_on_at_once() {
        let console = Console::plain();
        let mut patience = Patience::new(Duration::from_secs(10), &console);
        let status = Status::from(Refusal::new(ErrorCode::UnknownJob, "no job x"));
        let failure = patience.after(status.into(), &target()).await.unwrap_err();
        assert_eq!(failure.exit, Exit::Refused(ErrorCode::UnknownJob));
        assert_eq!(failure.message, "no job x");
    }
}
