//! How a write changes a section: JSON Merge Patch (RFC 7396) with the rules of [`crate::validate`].

use serde_json::Value;

use crate::Map;
