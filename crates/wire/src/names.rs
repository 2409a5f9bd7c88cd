//! Resource names (AIP-122): `devices/{device}` and `devices/{device}/modules/{module}`.

use twin::{DeviceId, IdentityKey, ModuleId};

use crate::InvalidField;

/// Prints the resource name of an identity.
pub fn identity_name(key: &IdentityKey) -> String {
    match &key.module {
        None => format!("devices/{}", key.device.as_str()),
        Some(module) => format!(
            "devices/{}/modules/{}",
            key.device.as_str(),
            module.as_str()
        ),
    }
}

/// Reads the resource name of a device or a module.
///
/// # Errors
/// Names `field` and shows both forms that are allowed.
pub fn parse_identity(field: &str, name: &str) -> Result<IdentityKey, InvalidField> {
    let parts: Vec<&str> = name.split('/').collect();
    let (device, module) = match parts.as_slice() {
        ["devices", device] => (*device, None),
        ["devices", device, "modules", module] => (*device, Some(*module)),
        _ => {
            return Err(InvalidField::new(
                field,
                format!(
                    "{name:?} is not a resource name; allowed are \"devices/{{device}}\" and \
                     \"devices/{{device}}/modules/{{module}}\""
                ),
            ));
        }
    };
    let device = DeviceId::parse(device).map_err(|error| InvalidField::new(field, error))?;
    let module = module
        .map(ModuleId::parse)
        .transpose()
        .map_err(|error| InvalidField::new(field, error))?;
    Ok(IdentityKey { device, module })
}

/// Reads an identity from two fields, the module's being empty for a device.
///
/// # Errors
/// Names the field that is not an id.
pub fn identity_from_ids(device_id: &str, module_id: &str) -> Result<IdentityKey, InvalidField> {
    let device =
        DeviceId::parse(device_id).map_err(|error| InvalidField::new("device_id", error))?;
    let module = if module_id.is_empty() {
        None
    } else {
        Some(ModuleId::parse(module_id).map_err(|error| InvalidField::new("module_id", error))?)
    };
    Ok(IdentityKey { device, module })
}

/// Reads `policies/{policy}` and returns the id, unchecked beyond its form.
///
/// # Errors
/// Names `field` and the form that is allowed.
pub fn parse_policy<'a>(field: &str, name: &'a str) -> Result<&'a str, InvalidField> {
    match name.strip_prefix("policies/") {
        Some(id) if !id.is_empty() && !id.contains('/') => Ok(id),
        _ => Err(InvalidField::new(
            field,
            format!("{name:?} is not a resource name; allowed is \"policies/{{policy}}\""),
        )),
    }
}

/// Reads `configurations/{configuration}` and returns the id, unchecked beyond its form.
///
/// # Errors
/// Names `field` and the form that is allowed.
pub fn parse_configuration<'a>(field: &str, name: &'a str) -> Result<&'a str, InvalidField> {
    match name.strip_prefix("configurations/") {
        Some(id) if !id.is_empty() && !id.contains('/') => Ok(id),
        _ => Err(InvalidField::new(
            field,
            format!(
                "{name:?} is not a resource name; allowed is \"configurations/{{configuration}}\""
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_and_modules_come_back_as_they_went() {
        for name in [
            "devices/a.b:c",
            "devices/cam#1?/modules/DefenderIotMicroAgent",
        ] {
            let key = parse_identity("name", name).unwrap();
            assert_eq!(identity_name(&key), name);
        }
    }

    #[test]
    fn a_wrong_name_is_shown_with_the_allowed_forms() {
        for name in [
            "",
            "devices",
            "devices/",
            "devices/a/b",
            "device/a",
            "devices/a/modules/",
        ] {
            let error = parse_identity("name", name).unwrap_err();
            assert_eq!(error.field, "name");
        }
        let error = parse_identity("name", "things/a").unwrap_err().to_string();
        assert!(
            error.contains("devices/{device}/modules/{module}"),
            "{error}"
        );
    }
}
