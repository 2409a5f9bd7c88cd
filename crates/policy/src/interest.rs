//! Which parts of a twin conditions look at, and which of them a change touches. Pure.

use twin::Condition;
use twin::query::{Attribute, Path, Root};
use wire::twin::v1::Change;

use crate::evaluate::ActivePolicy;

/// Parts of a twin: that conditions look at, or that a commit changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set with one flag per part of a twin"
)]
pub(crate) struct Interest {
    pub(crate) created: bool,
    tags: bool,
    device_tags: bool,
    pub(crate) desired: bool,
    reported: bool,
    posture: bool,
    configuration: bool,
    status: bool,
}

impl Interest {
    /// Everything: for a change that we do not know.
    pub(crate) const ALL: Interest = Interest {
        created: true,
        tags: true,
        device_tags: true,
        desired: true,
        reported: true,
        posture: true,
        configuration: true,
        status: true,
    };

    /// What the conditions and templates of a policy look at. Ids never change, so they are not part of it.
    pub(crate) fn of(active: &ActivePolicy) -> Interest {
        let mut interest = Interest::default();
        let policy = &active.policy;
        let conditions = [Some(policy.target()), policy.when()].into_iter().flatten();
        let course = active.stage.iter().map(|stage| &stage.course);
        let waves = course.flat_map(|course| course.conditions());
        for path in conditions.chain(waves).flat_map(Condition::paths) {
            interest = interest.with(Interest::of_path(&path));
        }
        // Whether a payload can be filled in says nothing of settings, but costs no more to look at.
        for path in policy.template_paths().chain(policy.payload_paths()) {
            interest = interest.with(Interest::of_path(path));
        }
        interest
    }

    /// What the gates of a rollout look at beside what answers tell: of one that has waves under way.
    pub(crate) fn of_gates(active: &ActivePolicy) -> Interest {
        let course = active.stage.as_ref().map(|stage| &stage.course);
        let course = course.filter(|course| course.released() > 0);
        let conditions = course.into_iter().flat_map(|course| {
            course
                .fail_if()
                .into_iter()
                .chain(course.numbers().places())
        });
        let paths = conditions.flat_map(Condition::paths);
        paths.fold(Interest::default(), |all, path| {
            all.with(Interest::of_path(&path))
        })
    }

    fn of_path(path: &Path) -> Interest {
        let none = Interest::default();
        match path.root {
            Root::Attribute(Attribute::Status) => Interest {
                status: true,
                ..none
            },
            // Ids never change, and a condition over changes can name no other attribute.
            Root::Attribute(_) | Root::Variable { .. } => none,
            Root::Tags => Interest { tags: true, ..none },
            Root::DeviceTags => Interest {
                device_tags: true,
                ..none
            },
            Root::Desired => Interest {
                desired: true,
                ..none
            },
            Root::Reported => Interest {
                reported: true,
                ..none
            },
            // The state of the configuration changes with every push, most of posture does not.
            Root::Posture => {
                let configuration = path.keys.first().is_none_or(|key| key == "configuration");
                Interest {
                    posture: true,
                    configuration,
                    ..none
                }
            }
        }
    }

    /// What a commit changed.
    pub(crate) fn of_changes(changes: impl IntoIterator<Item = Change>) -> Interest {
        let none = Interest::default();
        changes.into_iter().fold(none, |all, change| {
            all.with(match change {
                Change::Unspecified => Interest::ALL,
                Change::Created => Interest {
                    created: true,
                    ..none
                },
                // That one is gone, a change says by itself.
                Change::Deleted => none,
                Change::Tags => Interest { tags: true, ..none },
                Change::DeviceTags => Interest {
                    device_tags: true,
                    ..none
                },
                // Like a change of desired it may be the echo of a decision on what was older than what
                // somebody else decided on, which is put right by deciding once more.
                Change::Desired | Change::Configurations => Interest {
                    desired: true,
                    ..none
                },
                Change::Reported => Interest {
                    reported: true,
                    ..none
                },
                Change::Posture => Interest {
                    posture: true,
                    ..none
                },
                Change::ConfigurationState => Interest {
                    configuration: true,
                    ..none
                },
                Change::Status | Change::Identity => Interest {
                    status: true,
                    ..none
                },
            })
        })
    }

    /// Both together.
    #[must_use]
    pub(crate) fn with(self, other: Interest) -> Interest {
        Interest {
            created: self.created || other.created,
            tags: self.tags || other.tags,
            device_tags: self.device_tags || other.device_tags,
            desired: self.desired || other.desired,
            reported: self.reported || other.reported,
            posture: self.posture || other.posture,
            configuration: self.configuration || other.configuration,
            status: self.status || other.status,
        }
    }

    /// Whether both have a part in common.
    pub(crate) fn meets(self, other: Interest) -> bool {
        (self.created && other.created)
            || (self.tags && other.tags)
            || (self.device_tags && other.device_tags)
            || (self.desired && other.desired)
            || (self.reported && other.reported)
            || (self.posture && other.posture)
            || (self.configuration && other.configuration)
            || (self.status && other.status)
    }
}
