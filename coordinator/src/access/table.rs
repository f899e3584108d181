//! What each role may call, and how a call goes. What does not stand here nobody may.

use likeness_proto::Role;

use Role::{Admin, Member, Viewer, Worker};
use Shape::{Download, Unary, Upload};

const LOOK: &[Role] = &[Viewer, Member];
const CHANGE: &[Role] = &[Member];
const WORK: &[Role] = &[Worker];
const ADMINISTER: &[Role] = &[Admin];
const ALL: &[Role] = &[Viewer, Member, Worker, Admin];

/// How the messages of a call go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One there, one back.
    Unary,
    /// Many there, one back.
    Upload,
    /// One there, many back.
    Download,
}

/// Methods, as they stand in a call's path, the roles that may call them, and how.
pub(super) const TABLE: &[(&str, &[Role], Shape)] = &[
    ("/likeness.v1.Avatars/PutSubject", CHANGE, Upload),
    ("/likeness.v1.Avatars/ListSubjects", LOOK, Unary),
    ("/likeness.v1.Avatars/GetSubject", LOOK, Unary),
    ("/likeness.v1.Avatars/ForgetSubject", CHANGE, Unary),
    ("/likeness.v1.Avatars/SubmitJob", CHANGE, Unary),
    ("/likeness.v1.Avatars/GetJob", LOOK, Unary),
    ("/likeness.v1.Avatars/ListJobs", LOOK, Unary),
    ("/likeness.v1.Avatars/CancelJob", CHANGE, Unary),
    ("/likeness.v1.Avatars/WatchJob", LOOK, Download),
    ("/likeness.v1.Avatars/GetLosses", LOOK, Unary),
    ("/likeness.v1.Avatars/Download", LOOK, Download),
    ("/likeness.v1.Avatars/GetDownloadLink", LOOK, Unary),
    ("/likeness.v1.Workers/Register", WORK, Unary),
    ("/likeness.v1.Workers/Lease", WORK, Unary),
    ("/likeness.v1.Workers/Renew", WORK, Unary),
    ("/likeness.v1.Workers/Complete", WORK, Unary),
    ("/likeness.v1.Workers/Fail", WORK, Unary),
    ("/likeness.v1.Workers/Release", WORK, Unary),
    ("/likeness.v1.Admin/CreateTenant", ADMINISTER, Unary),
    ("/likeness.v1.Admin/UpdateTenant", ADMINISTER, Unary),
    ("/likeness.v1.Admin/ListTenants", ADMINISTER, Unary),
    ("/likeness.v1.Admin/CreateKey", ADMINISTER, Unary),
    ("/likeness.v1.Admin/ListKeys", ADMINISTER, Unary),
    ("/likeness.v1.Admin/RotateKey", ADMINISTER, Unary),
    ("/likeness.v1.Admin/RevokeKey", ADMINISTER, Unary),
    ("/likeness.v1.Admin/ReplayErasures", ADMINISTER, Unary),
];

/// Says what the protos declare, where a coordinator is set to. The protos of the table do not know it; it goes both ways, and its answers
/// end with its questions.
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// Whether a call of this path is worth a trace of its own: what people ask for. Workers ask again and again, for many at once.
pub(crate) fn is_asked_by_people(path: &str) -> bool {
    method(path).0.iter().any(|role| *role != Worker)
}

/// Whether there is a method of this path.
pub(crate) fn is_known(path: &str) -> bool {
    path == REFLECTION || TABLE.iter().any(|(method, ..)| *method == path)
}

/// What the status page shows that is no method of a service, and the roles that may look at it.
pub(super) const PAGES: &[(&str, &[Role])] = &[("/page/Fleet", ADMINISTER), ("/page/Work", LOOK)];

/// The roles that may call the method of this path (none: nobody), and how it goes.
pub(super) fn method(path: &str) -> (&'static [Role], Shape) {
    if path == REFLECTION {
        return (ALL, Upload);
    }
    let page = || PAGES.iter().find(|(page, _)| *page == path).map(|(_, roles)| (*roles, Unary));
    let method = TABLE.iter().find(|(method, ..)| *method == path).map(|(_, roles, shape)| (*roles, *shape));
    method.or_else(page).unwrap_or((&[], Unary))
}
