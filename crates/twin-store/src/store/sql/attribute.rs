//! What a twin has beside its sections, as SQL: columns of a row, and values of `row::RowBody`, whose
//! names are frozen.

use twin::query::ast::Attribute;

use super::fragment::{Builder, Dialect, Residual};
use super::instant::Instant;
use super::operand::{Operand, in_body, in_posture};

/// The value of an attribute, or of a member of it.
pub(super) fn operand(
    attribute: Attribute,
    keys: &[String],
    sql: &mut Builder,
) -> Result<Operand, Residual> {
    if !keys.is_empty() && attribute != Attribute::Capabilities {
        return Err(Residual);
    }
    let text_in_body =
        |key: &str, sql: &mut Builder| Ok(Operand::of_text(in_body(&[key], sql)?.text()));
    let instant = |instant: Instant| Ok(Operand::of_instant(instant));
    match attribute {
        Attribute::DeviceId => Ok(Operand::of_text("t.device_id".to_owned())),
        Attribute::ModuleId => Ok(Operand::of_text("nullif(t.module_id, '')".to_owned())),
        Attribute::Status => Ok(Operand::of_text(status(sql.dialect).to_owned())),
        Attribute::Version => Ok(Operand::of_number(in_body(&["version"], sql)?.number())),
        Attribute::StatusReason => text_in_body("status_reason", sql),
        Attribute::ModelId => {
            let id = in_body(&["model_id"], sql)?.text();
            Ok(Operand::of_text(format!("coalesce({id}, '')")))
        }
        Attribute::GenerationId => text_in_body("generation", sql),
        Attribute::CloudToDeviceMessageCount => Ok(Operand::of_number(sql.number(0.0))),
        Attribute::ConnectionState => {
            let connected = in_posture(&["agent", "connected"], sql)?.boolean();
            Ok(Operand::of_text(format!(
                "CASE WHEN {connected} THEN 'Connected' ELSE 'Disconnected' END"
            )))
        }
        Attribute::AuthenticationType => {
            let sas = in_body(&["authentication", "sas"], sql)?.is_defined();
            let own = in_body(&["authentication", "self_signed"], sql)?.is_defined();
            let word = in_body(&["authentication"], sql)?.text();
            Ok(Operand::of_text(format!(
                "CASE WHEN {sas} THEN 'sas' WHEN {own} THEN 'selfSigned' \
                 WHEN {word} = 'certificate_authority' THEN 'certificateAuthority' \
                 ELSE 'none' END"
            )))
        }
        Attribute::Capabilities if keys == ["iotEdge"] => {
            let edge = in_body(&["iot_edge"], sql)?.boolean();
            Ok(Operand::of_boolean(format!("coalesce({edge}, FALSE)")))
        }
        Attribute::StatusUpdateTime => {
            instant(Instant::in_body("status_updated_at", sql)?.or_never())
        }
        Attribute::CreateTime => instant(Instant::in_body("created_at", sql)?),
        Attribute::UpdateTime => instant(Instant::in_body("updated_at", sql)?),
        Attribute::LastActivityTime => instant(Instant::last_activity(sql)?.or_never()),
        // What is rarely searched for, or made of more than one value.
        Attribute::Etag
        | Attribute::DeviceEtag
        | Attribute::X509Thumbprint
        | Attribute::DeviceScope
        | Attribute::ParentScopes
        | Attribute::Capabilities
        | Attribute::Configurations => Err(Residual),
    }
}

const fn status(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "t.status",
        Dialect::Postgres => "t.status COLLATE \"C\"",
    }
}
