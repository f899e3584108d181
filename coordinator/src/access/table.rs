//! What each role may call. What does not stand here nobody may.

use likeness_proto::Role;

use Role::{Admin, Member, Viewer, Worker};

const LOOK: &[Role] = &[Viewer, Member];
const CHANGE: &[Role] = &[Member];
const WORK: &[Role] = &[Worker];
const ADMINISTER: &[Role] = &[Admin];

/// Methods, as they stand in a call's path, and the roles that may call them.
pub(super) const TABLE: &[(&str, &[Role])] = &[
    ("/likeness.v1.Avatars/PutSubject", CHANGE),
    ("/likeness.v1.Avatars/ListSubjects", LOOK),
    ("/likeness.v1.Avatars/GetSubject", LOOK),
    ("/likeness.v1.Avatars/ForgetSubject", CHANGE),
    ("/likeness.v1.Avatars/SubmitJob", CHANGE),
    ("/likeness.v1.Avatars/GetJob", LOOK),
    ("/likeness.v1.Avatars/ListJobs", LOOK),
    ("/likeness.v1.Avatars/CancelJob", CHANGE),
    ("/likeness.v1.Avatars/WatchJob", LOOK),
    ("/likeness.v1.Avatars/GetLosses", LOOK),
    ("/likeness.v1.Avatars/Download", LOOK),
    ("/likeness.v1.Avatars/GetDownloadLink", LOOK),
    ("/likeness.v1.Workers/Register", WORK),
    ("/likeness.v1.Workers/Lease", WORK),
    ("/likeness.v1.Workers/Renew", WORK),
    ("/likeness.v1.Workers/Complete", WORK),
    ("/likeness.v1.Workers/Fail", WORK),
    ("/likeness.v1.Workers/Release", WORK),
    ("/likeness.v1.Admin/CreateTenant", ADMINISTER),
    ("/likeness.v1.Admin/UpdateTenant", ADMINISTER),
    ("/likeness.v1.Admin/ListTenants", ADMINISTER),
    ("/likeness.v1.Admin/CreateKey", ADMINISTER),
    ("/likeness.v1.Admin/ListKeys", ADMINISTER),
    ("/likeness.v1.Admin/RotateKey", ADMINISTER),
    ("/likeness.v1.Admin/RevokeKey", ADMINISTER),
    ("/likeness.v1.Admin/ReplayErasures", ADMINISTER),
];

/// The roles that may call the method of this path; none: nobody.
pub(super) fn roles(path: &str) -> &'static [Role] {
    TABLE.iter().find(|(method, _)| *method == path).map_or(&[], |(_, roles)| *roles)
}
