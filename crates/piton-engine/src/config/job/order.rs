//! The order of steps: `after` names siblings, and leads nowhere in a circle.

use std::collections::{HashMap, HashSet};

/// A circle among steps, each after the next and the last after the first; `None` if there is
/// none. `after` has for each step the indexes of those that it waits for.
pub(super) fn circle(after: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut waits: Vec<usize> = after.iter().map(Vec::len).collect();
    let mut followers: HashMap<usize, Vec<usize>> = HashMap::new();
    for (step, before) in after.iter().enumerate() {
        for earlier in before {
            followers.entry(*earlier).or_default().push(step);
        }
    }
    let mut ready: Vec<usize> = (0..after.len()).filter(|step| waits[*step] == 0).collect();
    while let Some(step) = ready.pop() {
        for follower in followers.get(&step).into_iter().flatten() {
            waits[*follower] -= 1;
            if waits[*follower] == 0 {
                ready.push(*follower);
            }
        }
    }
    // What is left waits for something that is left: going there again and again meets itself.
    let mut at = waits.iter().position(|waits| *waits > 0)?;
    let (mut path, mut seen) = (Vec::new(), HashSet::new());
    while seen.insert(at) {
        path.push(at);
        at = *after[at].iter().find(|earlier| waits[**earlier] > 0)?;
    }
    let begin = path.iter().position(|step| *step == at)?;
    Some(path.split_off(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_found_wherever_it_is_and_nothing_else_is_one() {
        assert_eq!(circle(&[vec![], vec![0], vec![0, 1]]), None);
        assert_eq!(circle(&[vec![0]]), Some(vec![0]));
        assert_eq!(circle(&[vec![], vec![0, 2], vec![3], vec![1], vec![1]]), Some(vec![1, 2, 3]));
        let long: Vec<Vec<usize>> = (0..100_000).map(|n| vec![(n + 1) % 100_000]).collect();
        assert_eq!(circle(&long).map(|circle| circle.len()), Some(100_000));
    }
}
