//! Whether two quorums can be shown two logs.
//!
//! A split view needs two sets of witnesses, one that satisfies the clients' quorum and one that
//! satisfies this auditor's, and every witness in both must lie: an honest one cosigns only what
//! extends what it cosigned before. So a file is sound when every such pair shares more
//! witnesses than may lie. How few a pair can share is counted exactly, up the tree of groups:
//!
//! ```text
//! shared(witness)      = 1
//! shared(group k of n) = the sum of the 2k - n smallest shared(member), 0 when 2k <= n
//!
//! At the quorum itself 2k is k1 + k2: what clients ask for, and what this auditor does. With
//! witnesses alone shared = k1 + k2 - n, so shared > f is k1 + k2 > n + f (design/log.md 1.10).
//! ```
//!
//! A name is a member once, so the members of a group have no witness in common and the smallest
//! overlap of each can be had at the same time.

use super::{Member, Policy};

/// Why the quorum of a trust file does not protect from a split view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// Two quorums may share too few witnesses.
    #[error(
        "two quorums of {quorum} may have only {shared} witnesses in common, and {faulty} may \
         lie: two readers could be shown two logs (k1 + k2 > n + f does not hold)"
    )]
    Overlap {
        /// Name of the quorum.
        quorum: String,
        /// The fewest witnesses that two quorums share.
        shared: usize,
        /// Witnesses that may lie.
        faulty: usize,
    },
    /// A number of witnesses that may lie, or a threshold of clients, and no quorum.
    #[error("the quorum is none, so a number of faulty witnesses or of clients' means nothing")]
    Nobody,
    /// The clients' threshold is not from 1 to the number of the quorum's members.
    #[error("{clients} of the {members} members of {quorum} cannot be what clients ask for")]
    Clients {
        /// Name of the quorum.
        quorum: String,
        /// What the file says that clients ask for.
        clients: usize,
        /// Members that the quorum has.
        members: usize,
    },
}

impl Policy {
    /// Witnesses that may lie without anybody being deceived.
    #[must_use]
    pub fn faulty(&self) -> usize {
        self.rules.faulty.unwrap_or(0)
    }

    pub(super) fn check_safety(&self) -> Result<(), Unsound> {
        let Some(quorum) = self.quorum else {
            let asked = self.faulty() > 0 || self.rules.clients.is_some();
            return if asked { Err(Unsound::Nobody) } else { Ok(()) };
        };
        let name = || self.quorum_name().to_owned();
        let (ours, members) = match quorum {
            Member::Witness(_) => (1, vec![quorum]),
            Member::Group(at) => (self.groups[at].threshold, self.groups[at].members.clone()),
        };
        let clients = self.rules.clients.unwrap_or(ours);
        if clients == 0 || clients > members.len() {
            return Err(Unsound::Clients { quorum: name(), clients, members: members.len() });
        }
        let overlap = (clients + ours).saturating_sub(members.len());
        let (shared, faulty) = (self.fewest(overlap, &members), self.faulty());
        if shared > faulty {
            Ok(())
        } else {
            Err(Unsound::Overlap { quorum: name(), shared, faulty })
        }
    }

    /// The fewest witnesses that two sets share when they have `overlap` of `members` in common.
    fn fewest(&self, overlap: usize, members: &[Member]) -> usize {
        let mut shared: Vec<usize> = members.iter().map(|member| self.shared(*member)).collect();
        shared.sort_unstable();
        shared.iter().take(overlap).sum()
    }

    /// The fewest witnesses that two sets share when each of them satisfies `member`. A group
    /// has earlier groups as members only, so this ends.
    fn shared(&self, member: Member) -> usize {
        match member {
            Member::Witness(_) => 1,
            Member::Group(at) => {
                let group = &self.groups[at];
                let overlap = (2 * group.threshold).saturating_sub(group.members.len());
                self.fewest(overlap, &group.members)
            }
        }
    }
}
