//! The tables that every store has, and their columns.

/// The kind of a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`super::Value::Integer`].
    Integer,
    /// [`super::Value::Integer`] or [`super::Value::Null`]; also what a backup of before there was such a column
    /// does not have.
    OptionalInteger,
    /// [`super::Value::Integer`] of 0 or 1.
    Truth,
    /// [`super::Value::Text`].
    Text,
    /// [`super::Value::Text`] or [`super::Value::Null`].
    OptionalText,
    /// [`super::Value::Bytes`].
    Bytes,
}

/// What is backed up and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Where each partition stands. Who owns it is not part of it.
    Partitions,
    /// Identities with their documents.
    Twins,
    /// Searched values. Not in a backup: it follows from the twins.
    Index,
    /// Changes.
    Log,
    /// Revisions.
    History,
    /// Administrative changes.
    Audit,
    /// Answers to repeatable calls.
    Requests,
    /// Enrolment tokens.
    Tokens,
    /// Their uses.
    Enrollments,
    /// Long-running operations.
    Operations,
    /// Their results.
    Results,
    /// The id scope and enrolments.
    Provisioning,
}

impl Table {
    /// All, in the order in which they are read and written.
    pub const ALL: [Table; 12] = [
        Table::Partitions,
        Table::Twins,
        Table::Index,
        Table::Log,
        Table::History,
        Table::Audit,
        Table::Requests,
        Table::Tokens,
        Table::Enrollments,
        Table::Operations,
        Table::Results,
        Table::Provisioning,
    ];

    /// Its name in both stores.
    pub const fn name(self) -> &'static str {
        match self {
            Table::Partitions => "partitions",
            Table::Twins => "twins",
            Table::Index => "twin_index",
            Table::Log => "log",
            Table::History => "history",
            Table::Audit => "audit",
            Table::Requests => "requests",
            Table::Tokens => "enrollment_tokens",
            Table::Enrollments => "enrollments",
            Table::Operations => "operations",
            Table::Results => "operation_results",
            Table::Provisioning => "provisioning",
        }
    }

    /// How many of the columns, from the first, are its key.
    pub const fn key_columns(self) -> usize {
        match self {
            Table::Partitions | Table::Requests | Table::Tokens | Table::Operations => 1,
            Table::Twins | Table::Log | Table::Audit | Table::Enrollments | Table::Provisioning => {
                2
            }
            Table::History | Table::Results => 3,
            Table::Index => 4,
        }
    }

    /// Its columns, the key first. A backup holds the values in this order, so columns are only
    /// ever added at the end, and are optional when read.
    pub const fn columns(self) -> &'static [(&'static str, Kind)] {
        match self {
            Table::Partitions => &[
                ("partition", Kind::Integer),
                ("epoch", Kind::Integer),
                ("position", Kind::Integer),
                ("revision", Kind::Integer),
                ("published", Kind::Integer),
                ("log_floor", Kind::Integer),
                ("audit_sequence", Kind::Integer),
                ("audit_hash", Kind::Bytes),
            ],
            Table::Twins => &[
                ("device_id", Kind::Text),
                ("module_id", Kind::Text),
                ("revision", Kind::Integer),
                ("status", Kind::Text),
                ("tags", Kind::Text),
                ("desired", Kind::Text),
                ("reported", Kind::Text),
                ("posture", Kind::Text),
                ("body", Kind::Text),
                ("opaque", Kind::Truth),
                ("checksum", Kind::Integer),
            ],
            Table::Index => &[
                ("device_id", Kind::Text),
                ("module_id", Kind::Text),
                ("path", Kind::Text),
                ("value", Kind::Text),
            ],
            Table::Log => &[
                ("partition", Kind::Integer),
                ("revision", Kind::Integer),
                ("change", Kind::Bytes),
            ],
            Table::History => &[
                ("device_id", Kind::Text),
                ("module_id", Kind::Text),
                ("revision", Kind::Integer),
                ("first_revision", Kind::Integer),
                ("at", Kind::Integer),
                ("first_at", Kind::Integer),
                ("actor", Kind::Text),
                ("cause", Kind::Text),
                ("changes", Kind::Text),
                ("patch", Kind::Text),
                ("undo", Kind::Text),
                ("routine", Kind::Truth),
                ("trace_parent", Kind::OptionalText),
                ("checksum", Kind::Integer),
                ("previous", Kind::OptionalInteger),
            ],
            Table::Audit => &[
                ("partition", Kind::Integer),
                ("sequence", Kind::Integer),
                ("at", Kind::Integer),
                ("actor", Kind::Text),
                ("action", Kind::Text),
                ("resource", Kind::Text),
                ("detail", Kind::Text),
                ("trace_parent", Kind::OptionalText),
                ("hash", Kind::Bytes),
            ],
            Table::Requests => &[
                ("id", Kind::Text),
                ("fingerprint", Kind::Bytes),
                ("answer", Kind::Bytes),
                ("at", Kind::Integer),
                ("checksum", Kind::OptionalInteger),
            ],
            Table::Tokens => &[
                ("hash", Kind::Bytes),
                ("device_id", Kind::Text),
                ("expires_at", Kind::Integer),
                ("uses_max", Kind::Integer),
                ("checksum", Kind::OptionalInteger),
            ],
            Table::Enrollments => &[
                ("hash", Kind::Bytes),
                ("device_id", Kind::Text),
                ("nonce", Kind::Text),
                ("checksum", Kind::OptionalInteger),
            ],
            Table::Operations => &[
                ("id", Kind::Text),
                ("ended", Kind::Truth),
                ("at", Kind::Integer),
                ("body", Kind::Text),
                ("checksum", Kind::OptionalInteger),
            ],
            Table::Results => &[
                ("operation", Kind::Text),
                ("device_id", Kind::Text),
                ("module_id", Kind::Text),
                ("body", Kind::Text),
                ("checksum", Kind::OptionalInteger),
            ],
            Table::Provisioning => &[
                ("kind", Kind::Text),
                ("id", Kind::Text),
                ("body", Kind::Text),
                ("checksum", Kind::Integer),
            ],
        }
    }

    /// The names of its columns with commas between, for a statement.
    pub fn column_list(self) -> String {
        let names: Vec<_> = self.columns().iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }

    /// The names of its key's columns with commas between, for a statement.
    pub fn key_list(self) -> String {
        let names = self.columns().iter().take(self.key_columns());
        let names: Vec<_> = names.map(|(name, _)| *name).collect();
        names.join(", ")
    }
}
