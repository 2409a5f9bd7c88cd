//! Who runs this program, as the machine says: for logs of what was done beside a service, which asks
//! for a proof and this does not.

use std::fs;

/// Names of this machine's users, and of some others'.
const USERS: &str = "/etc/passwd";

/// The name of the user; of one without, the number.
pub(crate) fn name() -> String {
    let id = rustix::process::getuid().as_raw();
    let users = fs::read_to_string(USERS).unwrap_or_default();
    name_in(&users, id).unwrap_or_else(|| format!("uid {id}"))
}

/// Finds a name in lines of `name:password:number:…`.
fn name_in(users: &str, id: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(id) && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_by_its_number() {
        let users =
            "# users\nroot:x:0:0:root:/root:/bin/sh\n:x:3:\nbob:x:1001:1001::/home/bob:/bin/sh\n";
        assert_eq!(name_in(users, 1001).as_deref(), Some("bob"));
        assert_eq!(name_in(users, 0).as_deref(), Some("root"));
        assert_eq!(name_in(users, 3), None);
        assert_eq!(name_in("", 0), None);
    }

    #[test]
    fn there_is_always_a_name() {
        assert!(!name().is_empty());
    }
}
