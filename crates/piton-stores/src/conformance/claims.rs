//! Claims: who is granted one, who waits, who is fenced.

use piton_core::{Epoch, Owner, Saved, claim::WHOLE};

use super::{Harness, advance, ask, at, granted, held, key, positions, request, step, whole};

/// Each claim has the epoch after the last, and one that was given up has left nobody dead.
pub fn epochs_grow_with_every_claim<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    for epoch in 1..4 {
        let (claim, died) = granted(&*store, request(WHOLE));
        assert_eq!((claim.epoch, died), (Epoch(epoch), None));
        assert_eq!(claim.lease, request(WHOLE).lease);
        ask(store.release(&claim));
    }
}

/// Who asks for what is held is told who holds it; the holder is listed until it gives it up.
pub fn a_living_owner_is_held_and_named<H: Harness>() {
    let place = H::fresh();
    let (mine, other) = (place.open(), place.open());
    let claim = whole(&*mine);
    let holder = held(&*other, request(WHOLE));
    assert_eq!(holder.owner, Owner { host: "here".to_owned(), pid: 7 });
    assert_eq!((holder.since, holder.epoch, holder.renewals), (at(0), claim.epoch, 0));
    assert_eq!(holder.lease, request(WHOLE).lease);
    assert_eq!(ask(other.holders("orders")), [holder]);
    assert_eq!(ask(other.holders("another")), []);
    ask(mine.release(&claim));
    assert_eq!(ask(other.holders("orders")), []);
    let _ = whole(&*other);
}

/// Dropping a claim without a release is what a crash is: the heir gets it at once and is told.
pub fn a_dead_owner_is_replaced_at_once<H: Harness>() {
    let place = H::fresh();
    let (mine, other) = (place.open(), place.open());
    let claim = whole(&*mine);
    assert_eq!(ask(mine.renew(&claim)), Saved::Ignored);
    drop((claim, mine));
    assert_eq!(ask(other.holders("orders")), []);
    let (heir, died) = granted(&*other, request(WHOLE));
    let died = died.expect("the heir is told who died");
    assert_eq!((died.epoch, died.renewals, heir.epoch), (Epoch(1), 1, Epoch(2)));
    ask(other.release(&heir));
    assert_eq!(granted(&*other, request(WHOLE)).1, None, "a death is told once");
}

/// Invariant 3: an owner that lives and is silent is replaced when it is named, and whatever it
/// does when it wakes changes nothing.
pub fn a_silent_owner_is_replaced_and_fenced<H: Harness>() {
    let place = H::fresh();
    let (mine, other) = (place.open(), place.open());
    let (old, key) = (whole(&*mine), key("0", "out"));
    advance(&*mine, &old, &key, Some(4), at(0));
    let silent = held(&*other, request(WHOLE));
    let (heir, died) =
        granted(&*other, super::ClaimRequest { silent: Some(silent), ..request(WHOLE) });
    assert_eq!((heir.epoch, died), (Epoch(2), None), "it is silent, not dead");

    let fenced = Saved::Fenced { epoch: Epoch(2) };
    assert_eq!(ask(mine.renew(&old)), fenced);
    let late = step(&*mine, &key, Some(9));
    assert_eq!(ask(mine.save(&old, vec![late], at(1)))[0], fenced);
    let row = ask(mine.load("orders"));
    assert_eq!(ask(mine.mirror(&old, row.clone())), fenced);
    assert_eq!(ask(mine.complete(&old, None)), fenced);
    assert_eq!(ask(other.load("orders")), row);
    advance(&*other, &heir, &key, Some(5), at(2));
}

/// An owner that renewed since it was watched keeps its claim.
pub fn an_owner_that_stirred_is_not_silent<H: Harness>() {
    let place = H::fresh();
    let (mine, other) = (place.open(), place.open());
    let claim = whole(&*mine);
    let watched = held(&*other, request(WHOLE));
    assert_eq!(ask(mine.renew(&claim)), Saved::Ignored);
    let again = held(&*other, super::ClaimRequest { silent: Some(watched), ..request(WHOLE) });
    assert_eq!(again.renewals, 1);
    assert_eq!(ask(mine.renew(&claim)), Saved::Ignored);
}

/// A sink that has seen higher epochs than the store sets the floor.
pub fn epochs_begin_where_a_sink_has_been<H: Harness>() {
    let place = H::fresh();
    let store = place.open();
    let asked = super::ClaimRequest { at_least: Epoch(40), ..request(WHOLE) };
    let (claim, _) = granted(&*store, asked.clone());
    assert_eq!(claim.epoch, Epoch(40));
    ask(store.release(&claim));
    assert_eq!(granted(&*store, asked).0.epoch, Epoch(41), "never the same twice");
}

/// Parts are claimed side by side; all of a pipeline is claimed alone.
pub fn a_claim_of_all_excludes_claims_of_parts<H: Harness>() {
    let place = H::fresh();
    let (mine, other) = (place.open(), place.open());
    let all = whole(&*mine);
    assert_eq!(held(&*other, request("0")).epoch, all.epoch);
    ask(mine.release(&all));

    let (zero, _) = granted(&*mine, request("0"));
    let (one, _) = granted(&*other, request("1"));
    assert!(zero.epoch > all.epoch && one.epoch > all.epoch);
    assert_eq!(held(&*other, request("0")).epoch, zero.epoch);
    held(&*other, request(WHOLE));
    assert_eq!(ask(other.holders("orders")).len(), 2);

    let newest = zero.epoch.max(one.epoch);
    drop((zero, one));
    let (all, died) = granted(&*mine, request(WHOLE));
    assert!(all.epoch > newest);
    assert_eq!(died.map(|died| died.epoch), Some(newest));
}

/// Invariant 3: taking one partition from a silent owner of all ends its right to the others, too,
/// so that it is never half an owner. The others can be claimed without waiting.
pub fn a_part_taken_from_a_silent_owner_fences_all_of_it<H: Harness>() {
    let place = H::fresh();
    let (mine, other) = (place.open(), place.open());
    let all = whole(&*mine);
    let silent = held(&*other, request("0"));
    let asked = super::ClaimRequest { silent: Some(silent), ..request("0") };
    let (zero, _) = granted(&*other, asked);
    let fenced = Saved::Fenced { epoch: zero.epoch };
    assert_eq!(ask(mine.renew(&all)), fenced);
    let elsewhere = step(&*mine, &key("1", "out"), Some(9));
    assert_eq!(ask(mine.save(&all, vec![elsewhere], at(0))), [fenced]);

    let (one, died) = granted(&*other, request("1"));
    assert_eq!(died, None);
    advance(&*other, &zero, &key("0", "out"), Some(1), at(0));
    advance(&*other, &one, &key("1", "out"), Some(2), at(0));
    assert_eq!(positions(&ask(mine.load("orders"))), [Some(1), Some(2)]);
}

/// An owner that was replaced gives up nothing but its own; one that gave up renews no more.
pub fn giving_up_what_is_lost_changes_nothing<H: Harness>() {
    let place = H::fresh();
    let (mine, other) = (place.open(), place.open());
    let old = whole(&*mine);
    let silent = held(&*other, request(WHOLE));
    let (heir, _) =
        granted(&*other, super::ClaimRequest { silent: Some(silent), ..request(WHOLE) });
    ask(mine.release(&old));
    assert_eq!(held(&*mine, request(WHOLE)).epoch, heir.epoch);

    ask(other.release(&heir));
    let renewed = futures_executor::block_on(other.renew(&heir));
    assert!(matches!(renewed, Err(piton_core::StoreError::Refused { .. })), "{renewed:?}");
}
