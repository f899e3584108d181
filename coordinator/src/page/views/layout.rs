//! What all pages have in common.

use maud::{DOCTYPE, Markup, html};

use crate::access::Access;
use crate::page::assets::place;
use crate::page::desk::may;

/// Parts of the site, as they stand in its navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::page) enum Section {
    Jobs,
    Subjects,
    Fleet,
    Tenants,
}

/// What stands around a page.
pub(in crate::page) struct Frame<'a> {
    pub(in crate::page) title: &'a str,
    pub(in crate::page) section: Section,
    /// What the visitor may see; `None`: nobody is signed in.
    pub(in crate::page) access: Option<&'a Access>,
    /// Where its changes are told.
    pub(in crate::page) events: Option<String>,
}

/// The whole page around `body`.
pub(super) fn page(frame: &Frame<'_>, body: Markup) -> Markup {
    document(
        frame.title,
        html! {
            @if let Some(access) = frame.access { (header(access, frame.section)) }
        },
        html! { main #main tabindex="-1" data-events=[frame.events.as_deref()] { (body) } },
    )
}

fn document(title: &str, header: Markup, main: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Likeness" }
                link rel="icon" href=(place("icon.svg")) type="image/svg+xml";
                link rel="stylesheet" href=(place("style.css"));
                script src=(place("live.js")) defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                (header)
                (main)
            }
        }
    }
}

fn header(access: &Access, section: Section) -> Markup {
    let fleet = if access.may(may::FLEET) { may::FLEET } else { may::WORK };
    let items = [
        (Section::Jobs, "/jobs", "Jobs", may::LIST_JOBS),
        (Section::Subjects, "/subjects", "Subjects", may::LIST_SUBJECTS),
        (Section::Fleet, "/fleet", "Fleet", fleet),
        (Section::Tenants, "/tenants", "Tenants", may::LIST_TENANTS),
    ];
    html! {
        header.top {
            a.brand href="/" { "Likeness" }
            nav aria-label="Main" {
                ul {
                    @for (item, href, name, _) in items.iter().filter(|(.., method)| access.may(method)) {
                        li { a href=(href) aria-current=[(*item == section).then_some("page")] { (name) } }
                    }
                }
            }
            form.out method="post" action="/sign-out" {
                @if let Some(tenant) = &access.tenant { span.tenant { span.sr { "Tenant " } (tenant) } }
                button { "Sign out" }
            }
        }
    }
}

/// The form to sign in, and why the last try failed.
pub(in crate::page) fn sign_in(refused: Option<&str>) -> Markup {
    let main = html! {
        main #main.narrow tabindex="-1" {
            p.brand { "Likeness" }
            h1 { "Sign in" }
            form method="post" action="/sign-in" {
                label for="token" { "Access key or token" }
                input #token type="password" name="token" required autofocus autocomplete="current-password"
                    spellcheck="false" autocapitalize="off" aria-describedby="hint"
                    aria-invalid=[refused.map(|_| "true")] aria-errormessage=[refused.map(|_| "refused")];
                @if let Some(refused) = refused { p #refused.refused role="alert" { (sentence(refused)) } }
                p #hint.hint {
                    "A key of your tenant, a token of your identity provider, or the one in the file " code { "token" }
                    " of the server’s state folder."
                }
                button.primary { "Sign in" }
            }
        }
    };
    document("Sign in", html! {}, main)
}

/// A page that says why there is none.
pub(in crate::page) fn oops(title: &str, message: &str) -> Markup {
    let main = html! {
        main #main.narrow tabindex="-1" {
            h1 { (title) }
            p { (sentence(message)) }
            p { a href="/" { "To the start" } }
        }
    };
    document(title, html! {}, main)
}

/// A refusal's message as a sentence.
pub(super) fn sentence(message: &str) -> String {
    let mut letters = message.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let end = if message.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}
