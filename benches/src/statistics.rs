//! Measurements of one thing: their quantiles, what can be said of the ratio of two, and when nothing can.

use serde::{Deserialize, Serialize};

/// Measurements, in order of size.
#[derive(Clone, Debug)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Takes what was measured, in any order.
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// All of several rounds.
    pub fn of_rounds(rounds: &[Vec<f64>]) -> Self {
        Self::new(rounds.concat())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The measurements.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// The one in the middle.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value below which this part of the measurements lies; not a number where there are none.
    pub fn quantile(&self, part: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return f64::NAN };
        let place = part * last as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is a place in the sample"
        )]
        let below = place.floor() as usize;
        let at = |place: usize| self.0.get(place.min(last)).copied().unwrap_or(f64::NAN);
        at(below) + (at(below + 1) - at(below)) * place.fract()
    }

    /// How far apart the middle half lies, as a part of the median.
    pub fn spread(&self) -> f64 {
        (self.quantile(0.75) - self.quantile(0.25)) / self.median()
    }
}

/// How many times larger one quantile is than another, and where that ratio may lie by chance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The ratio.
    pub ratio: f64,
    /// The lower end of the interval that holds 95 of 100 resamplings.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// How often the samples are drawn again.
const DRAWS: usize = 1000;

impl Ratio {
    /// The ratio of the medians, with an interval by bootstrap. The same samples give the same interval.
    pub fn of(above: &Sample, below: &Sample) -> Self {
        let single = |sample: &Sample| sample.0.iter().map(|&value| vec![value]).collect::<Vec<_>>();
        Self::of_rounds(&single(above), &single(below), 0.5)
    }

    /// The ratio of the same quantile of two subjects. What was measured within a round has the round's luck in common, so
    /// rounds are drawn again, and measurements within each.
    pub fn of_rounds(above: &[Vec<f64>], below: &[Vec<f64>], quantile: f64) -> Self {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut drawn = |rounds: &[Vec<f64>]| random.draw(rounds).quantile(quantile);
        let ratios = Sample::new((0..DRAWS).map(|_| drawn(above) / drawn(below)).collect());
        let of = |rounds: &[Vec<f64>]| Sample::of_rounds(rounds).quantile(quantile);
        Self { ratio: of(above) / of(below), low: ratios.quantile(0.025), high: ratios.quantile(0.975) }
    }

    /// Whether the ratio reaches a goal. `None`: the measurements do not tell.
    pub fn reaches(self, goal: f64) -> Option<bool> {
        if self.low >= goal {
            Some(true)
        } else if self.high < goal {
            Some(false)
        } else {
            None
        }
    }
}

/// Numbers that look random and are the same each time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % limit.max(1)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    fn draw(&mut self, rounds: &[Vec<f64>]) -> Sample {
        let mut values = Vec::new();
        for _ in rounds {
            let Some(round) = self.pick(rounds) else { continue };
            values.extend((0..round.len()).filter_map(|_| self.pick(round).copied()));
        }
        Sample::new(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(values: &[f64]) -> Vec<Vec<f64>> {
        values.iter().map(|&value| vec![value]).collect()
    }

    #[test]
    fn quantiles_lie_between_the_values() {
        let sample = Sample::new(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((sample.median(), sample.quantile(0.0), sample.quantile(1.0)), (2.5, 1.0, 4.0));
        assert!(Sample::new(Vec::new()).median().is_nan());
        let hundred = Sample::new((0..=100).map(f64::from).collect());
        assert_eq!((hundred.quantile(0.99), hundred.spread()), (99.0, 1.0));
    }

    #[test]
    fn a_clear_difference_has_a_verdict_and_noise_has_none() {
        let fast = Sample::new(vec![2.0, 2.1, 2.2, 1.9, 2.0, 2.05, 2.1, 1.95]);
        let slow = Sample::new(vec![9.0, 9.1, 8.9, 9.2, 9.0, 9.05, 8.95, 9.1]);
        assert_eq!(Ratio::of(&slow, &fast).reaches(3.5), Some(true));
        assert_eq!(Ratio::of(&slow, &fast).reaches(9.0), Some(false));
        let noisy = Sample::new(vec![1.0, 9.0, 4.0, 2.0, 8.0, 3.0, 6.0, 7.0]);
        assert_eq!(Ratio::of(&slow, &noisy).reaches(2.0), None);
    }

    #[test]
    fn what_never_varies_has_an_interval_without_width() {
        let ratio = Ratio::of_rounds(&rounds(&[6.0; 5]), &rounds(&[2.0; 5]), 0.5);
        assert_eq!(ratio, Ratio { ratio: 3.0, low: 3.0, high: 3.0 });
    }

    #[test]
    fn many_measurements_of_few_rounds_do_not_hide_that_the_rounds_differ() {
        let round = |level: f64| (0..100).map(|number| level + f64::from(number % 7) / 100.0).collect();
        let steady: Vec<Vec<f64>> = (0..6).map(|_| round(3.0)).collect();
        let moody: Vec<Vec<f64>> = [1.0, 9.0, 2.0, 8.0, 1.5, 9.5].map(round).into();
        assert_eq!(Ratio::of_rounds(&moody, &steady, 0.5).reaches(1.0), None);
        let flat: Vec<Vec<f64>> = moody.concat().into_iter().map(|value| vec![value]).collect();
        let width = |ratio: Ratio| ratio.high - ratio.low;
        let pooled = Ratio::of_rounds(&flat, &rounds(&steady.concat()), 0.5);
        assert!(width(pooled) < width(Ratio::of_rounds(&moody, &steady, 0.5)));
    }
}
