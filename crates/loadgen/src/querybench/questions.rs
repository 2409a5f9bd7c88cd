//! What is asked.

/// A query with values that change from run to run.
pub(crate) struct Question {
    pub(crate) name: &'static str,
    pub(crate) text: Box<dyn Fn(u32) -> String>,
    pub(crate) page_size: i32,
}

/// Every question, over a fleet of so many twins.
pub(crate) fn all(twins: u32) -> Vec<Question> {
    let sites = loadgen::twins::sites(twins);
    // A prime step visits the sites in another order than they were written in.
    let site = move |run: u32| format!("site-{:04}", run.wrapping_mul(7919) % sites);
    let question = |name, page_size, text: Box<dyn Fn(u32) -> String>| Question {
        name,
        text,
        page_size,
    };
    vec![
        question(
            "selective tag, 100 of its twins",
            100,
            Box::new(move |run| format!("SELECT * FROM devices WHERE tags.site = '{}'", site(run))),
        ),
        question(
            "selective tag, ids only",
            100,
            Box::new(move |run| {
                format!(
                    "SELECT deviceId FROM devices WHERE tags.site = '{}'",
                    site(run)
                )
            }),
        ),
        question(
            "two tags",
            100,
            Box::new(move |run| {
                format!(
                    "SELECT deviceId FROM devices WHERE tags.site = '{}' AND tags.ring = 'canary'",
                    site(run)
                )
            }),
        ),
        question(
            "IN list of 5 sites",
            100,
            Box::new(move |run| {
                let list: Vec<_> = (0..5)
                    .map(|n| format!("'{}'", site(run + n * 31)))
                    .collect();
                let list = list.join(", ");
                format!("SELECT * FROM devices WHERE tags.site IN [{list}]")
            }),
        ),
        question(
            "one device",
            100,
            Box::new(move |run| {
                let number = run.wrapping_mul(104_729) % twins;
                let id = loadgen::twins::device_id(number);
                format!("SELECT * FROM devices WHERE deviceId = '{id}'")
            }),
        ),
        question(
            "prefix of deviceId",
            100,
            Box::new(move |run| {
                let number = run.wrapping_mul(104_729) % twins;
                let id = loadgen::twins::device_id(number);
                let prefix = &id[..id.len() - 2];
                format!("SELECT * FROM devices WHERE STARTSWITH(deviceId, '{prefix}')")
            }),
        ),
        question(
            "prefix of a tag, 100 of its twins",
            100,
            Box::new(move |run| {
                let site = site(run);
                let prefix = &site[..site.len() - 1];
                format!("SELECT * FROM devices WHERE STARTSWITH(tags.site, '{prefix}')")
            }),
        ),
        question(
            "range of a tag, 100 of its twins",
            100,
            Box::new(move |run| {
                let site = site(run);
                format!(
                    "SELECT * FROM devices WHERE tags.site >= '{site}' AND tags.site < '{site}~'"
                )
            }),
        ),
        question(
            "range of numbers, 100 of its twins",
            100,
            Box::new(move |run| {
                let from = run.wrapping_mul(7919) % twins;
                format!(
                    "SELECT * FROM devices WHERE tags.number >= {from} AND tags.number < {}",
                    from + 1000
                )
            }),
        ),
        question(
            "connected, 100 of 9 in 10",
            100,
            Box::new(|_| "SELECT * FROM devices WHERE connectionState = 'Connected'".to_owned()),
        ),
        question(
            "COUNT of the connected",
            100,
            Box::new(|_| {
                "SELECT COUNT() AS n FROM devices WHERE connectionState = 'Connected'".to_owned()
            }),
        ),
        question(
            "COUNT of the silent since an hour, 1 in 1000",
            100,
            Box::new(|_| {
                "SELECT COUNT() AS n FROM devices \
                 WHERE lastActivityTime < DATE_ADD('hour', -1, NOW())"
                    .to_owned()
            }),
        ),
        question(
            "COUNT of a selective tag",
            100,
            Box::new(move |run| {
                format!(
                    "SELECT COUNT() AS n FROM devices WHERE tags.site = '{}'",
                    site(run)
                )
            }),
        ),
        question(
            "COUNT of a tag that half of the twins have",
            100,
            Box::new(|_| "SELECT COUNT() AS n FROM devices WHERE tags.env = 'prod'".to_owned()),
        ),
        question(
            "COUNT of everything",
            100,
            Box::new(|_| "SELECT COUNT() AS n FROM devices".to_owned()),
        ),
        question(
            "COUNT of a posture condition without index",
            100,
            Box::new(|_| {
                "SELECT COUNT() AS n FROM devices \
                 WHERE EXISTS(p IN posture.listeningPorts WHERE p.port = 23)"
                    .to_owned()
            }),
        ),
        question(
            "COUNT of a reported value without index",
            100,
            Box::new(|_| {
                "SELECT COUNT() AS n FROM devices WHERE properties.reported.fw.version < '1.2'"
                    .to_owned()
            }),
        ),
        question(
            "GROUP BY of a tag within a site",
            100,
            Box::new(move |run| {
                format!(
                    "SELECT tags.ring, COUNT() AS n, MAX(tags.floor) FROM devices \
                     WHERE tags.site = '{}' GROUP BY tags.ring",
                    site(run)
                )
            }),
        ),
        question(
            "ORDER BY an expression within a site, TOP 10",
            100,
            Box::new(move |run| {
                format!(
                    "SELECT TOP 10 deviceId, DATE_DIFF('day', createTime, NOW()) AS age FROM devices \
                     WHERE tags.site = '{}' ORDER BY properties.reported.uptime % 1000 DESC",
                    site(run)
                )
            }),
        ),
        question(
            "GROUP BY tags.site, all twins",
            1000,
            Box::new(|_| {
                "SELECT tags.site, COUNT() AS n FROM devices GROUP BY tags.site".to_owned()
            }),
        ),
        question(
            "ORDER BY a reported value, TOP 10, all twins",
            100,
            Box::new(|_| {
                "SELECT TOP 10 deviceId FROM devices ORDER BY properties.reported.uptime DESC"
                    .to_owned()
            }),
        ),
        question(
            "ORDER BY an expression, TOP 10, all twins",
            100,
            Box::new(|_| {
                "SELECT TOP 10 deviceId FROM devices \
                 ORDER BY properties.reported.uptime % 1000 DESC"
                    .to_owned()
            }),
        ),
    ]
}
