use super::*;

fn key(text: &str) -> IdentityKey {
    IdentityKey::parse_path(text).expect("a key")
}

/// What a follower is told, `key=value` or `-key`, until nothing waits.
fn told(cache: &mut Cache<u32>, subscription: &Subscription) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        match cache.take(subscription.id) {
            Told::Changed(key, Some(value)) => told.push(format!("{key}={value}")),
            Told::Changed(key, None) => told.push(format!("-{key}")),
            Told::Nothing => return told,
            Told::Ended => {
                told.push("end".to_owned());
                return told;
            }
        }
    }
}

#[test]
fn what_does_not_come_again_in_a_new_snapshot_is_removed_when_that_is_complete() {
    let mut cache = Cache::new();
    cache.begin();
    cache.put(key("a"), 1);
    cache.put(key("b"), 1);
    cache.complete();
    let follower = cache.subscribe();
    assert_eq!(told(&mut cache, &follower).len(), 2);
    cache.begin();
    cache.put(key("b"), 2);
    assert!(cache.get(&key("a")).is_some(), "nothing is known yet");
    cache.begin();
    cache.put(key("c"), 3);
    cache.complete();
    // `b` changed and went before it was told: told once, as gone.
    let mut news = told(&mut cache, &follower);
    news[2..].sort();
    assert_eq!(news, ["-b", "c=3", "-a"]);
    assert_eq!(cache.len(), 1);
}

#[test]
fn a_slow_follower_is_told_the_last_value_once_in_the_order_of_first_change() {
    let mut cache = Cache::new();
    let slow = cache.subscribe();
    let other = cache.subscribe();
    for round in 0..100 {
        cache.put(key("a"), round);
        cache.put(key("b"), round);
        assert!(told(&mut cache, &other).len() <= 2);
    }
    cache.remove(&key("a"));
    cache.remove(&key("absent"));
    assert_eq!(told(&mut cache, &slow), ["-a", "b=99"]);
    assert_eq!(told(&mut cache, &slow), Vec::<String>::new());
    cache.put(key("a"), 7);
    assert_eq!(told(&mut cache, &slow), ["a=7"]);
}

#[test]
fn a_follower_that_has_gone_costs_nothing_and_the_end_is_told_last() {
    let mut cache = Cache::new();
    drop(cache.subscribe());
    let stays = cache.subscribe();
    cache.put(key("a"), 1);
    assert_eq!(cache.followers.len(), 1);
    cache.end();
    assert_eq!(told(&mut cache, &stays), ["a=1", "end"]);
}
