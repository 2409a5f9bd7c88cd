//! Places before and after the durable steps of this crate, where a test can end the process as
//! `kill -9` would. Compiled into tests of this crate only; elsewhere a call is nothing.

#[cfg(test)]
static ARMED: std::sync::Mutex<Option<String>> = std::sync::Mutex::new(None);

/// Ends the process when this place is come by.
#[cfg(test)]
pub(crate) fn arm(name: &str) {
    *ARMED.lock().expect("nobody panics with it") = Some(name.to_owned());
}

/// Comes by a place.
#[cfg(test)]
pub(crate) fn hit(name: &'static str) {
    let armed = ARMED.lock().expect("nobody panics with it");
    if armed.as_deref() == Some(name) {
        std::process::abort();
    }
}

/// Comes by a place.
#[cfg(not(test))]
#[inline]
pub(crate) const fn hit(_: &'static str) {}
