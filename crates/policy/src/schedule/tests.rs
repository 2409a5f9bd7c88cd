use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(zone: &str, windows: &[(&[Day], &str, &str)]) -> Schedule {
    let window = |(days, from, to): &(&[Day], &str, &str)| WindowSpec {
        days: days.to_vec(),
        from: (*from).to_owned(),
        to: (*to).to_owned(),
    };
    Schedule::check(&ScheduleSpec {
        time_zone: zone.to_owned(),
        windows: windows.iter().map(window).collect(),
        ..ScheduleSpec::default()
    })
    .unwrap()
}

fn hours(schedule: &Schedule) -> Hours<'_> {
    Hours {
        schedule: Some(schedule),
        freezes: &[],
    }
}

/// Each edge behind a time with what the gate is from there on.
fn edges(hours: Hours<'_>, from: &str, count: usize) -> Vec<(String, bool)> {
    let mut now = at(from);
    let mut found = Vec::new();
    for _ in 0..count {
        now = hours.next_edge(now).expect("another edge");
        found.push((now.to_string(), hours.gate(now).is_open()));
    }
    found
}

fn check_edges(schedule: &Schedule, from: &str, expected: &[(&str, bool)]) {
    let found = edges(hours(schedule), from, expected.len());
    let found: Vec<_> = found.iter().map(|(at, open)| (&**at, *open)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
    let nights = schedule("UTC", &[(&[Day::Fri], "22:00", "04:00")]);
    // A Wednesday.
    check_edges(
        &nights,
        "2026-11-25T00:00:00Z",
        &[
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T04:00:00Z", false),
            ("2026-12-04T22:00:00Z", true),
        ],
    );
    let it = hours(&nights);
    assert!(it.gate(at("2026-11-28T03:59:59Z")).is_open());
    let Gate::Closed(why) = it.gate(at("2026-11-28T04:00:00Z")) else {
        panic!("it is closed")
    };
    assert_eq!(
        &*why,
        "outside of its maintenance windows; it goes on 2026-12-04T22:00:00+00:00[UTC]"
    );
}

#[test]
fn windows_follow_the_clock_of_their_zone_when_it_is_put_forward() {
    // In Paris 02:00 to 03:00 is left out on 2026-03-29.
    let inside = schedule("Europe/Paris", &[(&[], "02:15", "02:45")]);
    check_edges(
        &inside,
        "2026-03-28T12:00:00Z",
        &[
            ("2026-03-29T01:15:00Z", true),
            ("2026-03-29T01:45:00Z", false),
            ("2026-03-30T00:15:00Z", true),
        ],
    );
    let around = schedule("Europe/Paris", &[(&[], "01:00", "04:00")]);
    check_edges(
        &around,
        "2026-03-28T12:00:00Z",
        &[
            ("2026-03-29T00:00:00Z", true),
            ("2026-03-29T02:00:00Z", false),
            ("2026-03-29T23:00:00Z", true),
        ],
    );
}

#[test]
fn a_window_that_a_clock_change_leaves_out_keeps_its_length() {
    for (from, to, opens, closes) in [
        (
            "02:00",
            "03:00",
            "2026-03-29T01:00:00Z",
            "2026-03-29T02:00:00Z",
        ),
        // Taken by the clock alone it would end before it begins.
        (
            "02:30",
            "03:15",
            "2026-03-29T01:30:00Z",
            "2026-03-29T02:15:00Z",
        ),
    ] {
        let sundays = schedule("Europe/Paris", &[(&[Day::Sun], from, to)]);
        let expected = [(opens, true), (closes, false)];
        check_edges(&sundays, "2026-03-28T12:00:00Z", &expected);
        let Gate::Closed(why) = hours(&sundays).gate(at("2026-03-28T12:00:00Z")) else {
            panic!("it is closed")
        };
        assert!(why.contains("it goes on 2026-03-29T03:"), "{why}");
    }
}

#[test]
fn a_date_as_an_end_is_the_end_of_that_day() {
    let schedule = Schedule::check(&ScheduleSpec {
        time_zone: "Europe/Paris".to_owned(),
        freezes: vec![FreezeSpec {
            from: "2026-12-24".to_owned(),
            to: "2026-12-24".to_owned(),
            reason: String::new(),
        }],
        expires: "2027-06-30".to_owned(),
        ..ScheduleSpec::default()
    })
    .unwrap();
    check_edges(
        &schedule,
        "2026-12-01T00:00:00Z",
        &[
            ("2026-12-23T23:00:00Z", false),
            ("2026-12-24T23:00:00Z", true),
            ("2027-06-30T22:00:00Z", false),
        ],
    );
}

#[test]
fn of_an_hour_that_comes_twice_the_first_is_meant() {
    // In Paris 02:00 to 03:00 comes twice on 2026-10-25, first at +02:00.
    let inside = schedule("Europe/Paris", &[(&[], "02:15", "02:45")]);
    check_edges(
        &inside,
        "2026-10-24T12:00:00Z",
        &[
            ("2026-10-25T00:15:00Z", true),
            ("2026-10-25T00:45:00Z", false),
            ("2026-10-26T01:15:00Z", true),
        ],
    );
    let around = schedule("Europe/Paris", &[(&[], "01:00", "04:00")]);
    check_edges(
        &around,
        "2026-10-24T12:00:00Z",
        &[
            ("2026-10-24T23:00:00Z", true),
            ("2026-10-25T03:00:00Z", false),
        ],
    );
}

#[test]
fn a_freeze_goes_before_windows_and_its_end_is_the_next_window() {
    let mut nights = schedule("UTC", &[(&[], "22:00", "02:00")]);
    nights.freezes.push(Freeze {
        from: at("2026-12-20T23:00:00Z"),
        to: Some(at("2027-01-03T12:00:00Z")),
        what: "holidays".to_owned(),
    });
    let it = hours(&nights);
    assert!(it.gate(at("2026-12-20T22:30:00Z")).is_open());
    let Gate::Closed(why) = it.gate(at("2026-12-20T23:00:00Z")) else {
        panic!("it is closed")
    };
    assert_eq!(&*why, "holidays; it goes on 2027-01-03T22:00:00+00:00[UTC]");
    assert!(it.gate(at("2027-01-03T22:00:00Z")).is_open());
}

#[test]
fn a_freeze_without_an_end_waits_for_somebody() {
    let freezes = [Freeze {
        from: at("2026-11-23T03:00:00Z"),
        to: None,
        what: "frozen by operator:alice".to_owned(),
    }];
    let it = Hours {
        schedule: None,
        freezes: &freezes,
    };
    assert!(it.gate(at("2026-11-23T02:59:59Z")).is_open());
    assert_eq!(
        it.next_edge(at("2026-11-23T02:00:00Z")),
        Some(freezes[0].from)
    );
    assert_eq!(it.next_edge(freezes[0].from), None);
    let Gate::Closed(why) = it.gate(freezes[0].from) else {
        panic!("it is closed")
    };
    assert_eq!(&*why, "frozen by operator:alice; until somebody ends it");
}

#[test]
fn after_its_end_it_is_over_whatever_else_holds() {
    let mut until = schedule("UTC", &[(&[], "22:00", "02:00")]);
    until.expires = Some(at("2026-11-23T23:00:00Z"));
    let it = hours(&until);
    assert!(it.gate(at("2026-11-23T22:59:59Z")).is_open());
    assert_eq!(it.next_edge(at("2026-11-23T22:30:00Z")), until.expires);
    for later in ["2026-11-23T23:00:00Z", "2026-11-24T22:30:00Z"] {
        assert_eq!(it.gate(at(later)), Gate::Expired(until.expires.unwrap()));
    }
}

#[test]
fn an_end_within_a_freeze_waits_for_the_end_of_that() {
    let mut until = schedule("UTC", &[]);
    until.expires = Some(at("2026-12-31T00:00:00Z"));
    let freeze = |from: &str, to: &str| Freeze {
        from: at(from),
        to: Some(at(to)),
        what: "frozen".to_owned(),
    };
    until.freezes = vec![
        freeze("2026-12-20T00:00:00Z", "2027-01-03T00:00:00Z"),
        freeze("2027-01-02T00:00:00Z", "2027-01-05T00:00:00Z"),
        freeze("2027-01-06T00:00:00Z", "2027-01-07T00:00:00Z"),
    ];
    let it = hours(&until);
    for within in ["2026-12-31T00:00:00Z", "2027-01-04T00:00:00Z"] {
        assert!(matches!(it.gate(at(within)), Gate::Closed(_)), "{within}");
    }
    // It is over by then, and nothing brings it back.
    for later in ["2027-01-05T00:00:00Z", "2027-01-06T12:00:00Z"] {
        assert_eq!(it.gate(at(later)), Gate::Expired(until.expires.unwrap()));
    }
}

#[test]
fn open_since_is_the_beginning_of_all_that_is_open_without_a_break() {
    let nights = schedule("UTC", &[(&[], "22:00", "02:00"), (&[], "02:00", "05:00")]);
    let it = hours(&nights);
    let since = it.open_since(at("2026-11-24T04:00:00Z"));
    assert_eq!(since, Some(at("2026-11-23T22:00:00Z")));
    assert_eq!(it.open_since(at("2026-11-24T05:00:00Z")), None);
    // Always open is open for longer than anything waits.
    let always = schedule("UTC", &[(&[], "00:00", "00:00")]);
    assert_eq!(hours(&always).open_since(at("2026-11-24T04:00:00Z")), None);
    assert!(hours(&always).gate(at("2026-11-24T00:00:00Z")).is_open());
}

#[test]
fn every_problem_of_a_schedule_has_its_place() {
    let spec = ScheduleSpec {
        time_zone: "Europe/Atlantis".to_owned(),
        windows: vec![WindowSpec {
            days: Vec::new(),
            from: "7:00".to_owned(),
            to: "24:00".to_owned(),
        }],
        freezes: vec![
            FreezeSpec {
                from: "2026-12-20".to_owned(),
                to: "2026-12-20T00:00:00Z".to_owned(),
                reason: String::new(),
            },
            FreezeSpec {
                from: "Christmas".to_owned(),
                to: "2027-01-01".to_owned(),
                reason: "x".repeat(513),
            },
        ],
        expires: "tomorrow".to_owned(),
    };
    let problems = Schedule::check(&spec).unwrap_err();
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let expected = [
        "schedule (timeZone): is \"Europe/Atlantis\"",
        "schedule (windows[0].from): is \"7:00\"",
        "schedule (windows[0].to): is \"24:00\"",
        "schedule (freezes[0].to): is \"2026-12-20T00:00:00Z\", not after from",
        "schedule (freezes[1].reason): has 513",
        "schedule (freezes[1].from): is \"Christmas\"",
        "schedule (expires): is \"tomorrow\"",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told} lacks {expected}");
    }
}

proptest! {
    /// Between two edges nothing changes, also over changes of the clock: what wakes at edges alone
    /// misses nothing.
    #[test]
    fn nothing_changes_between_edges(
        hour in 0_i64..9000,
        windows in prop::collection::vec((0_usize..7, 0_u8..24, 0_u8..24), 1..4),
        step in 1_i64..400,
    ) {
        let windows = windows.iter().map(|(day, from, to)| WindowSpec {
            days: vec![Day::ALL[*day].0],
            from: format!("{from:02}:30"),
            to: format!("{to:02}:10"),
        });
        let schedule = Schedule::check(&ScheduleSpec {
            time_zone: "America/New_York".to_owned(),
            windows: windows.collect(),
            ..ScheduleSpec::default()
        }).unwrap();
        let it = hours(&schedule);
        let now = at("2026-01-01T00:00:00Z") + Span::new().hours(hour);
        let edge = it.next_edge(now).expect("a window comes every week");
        let between = now + Span::new().minutes(step);
        if between < edge {
            prop_assert!(it.gate(now).is_like(&it.gate(between)));
        }
    }
}
