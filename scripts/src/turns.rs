//! Whose turn it is: what is compared is measured in turns, so that a machine that slows down
//! slows all of it.

/// The order of one round among `count`: forth, and back in the next.
#[must_use]
pub fn order(count: usize, round: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if !round.is_multiple_of(2) {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_takes_turns_at_going_first() {
        assert_eq!(order(3, 0), [0, 1, 2]);
        assert_eq!(order(3, 1), [2, 1, 0]);
        assert_eq!(order(1, 7), [0]);
    }
}
