//! Measurements of one thing: their median and spread, and what can be said of the ratio of two.

/// Measurements, in order of size.
#[derive(Clone, Debug)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    pub(crate) fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value below which this part of the measurements lies; not a number where there are none.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return f64::NAN };
        #[expect(clippy::cast_precision_loss, reason = "a sample has few values")]
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
}

/// How many times larger one median is than another, and where that ratio may lie by chance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio {
    pub(crate) ratio: f64,
    /// The ends of the interval that holds 95 of 100 resamplings.
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// How often the samples are drawn again.
const DRAWS: usize = 2000;

impl Ratio {
    /// The ratio of the medians, with an interval by bootstrap. The same samples give the same interval.
    pub(crate) fn of(above: &Sample, below: &Sample) -> Self {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let ratios = (0..DRAWS).map(|_| random.draw(above).median() / random.draw(below).median()).collect();
        let ratios = Sample::new(ratios);
        Self {
            ratio: above.median() / below.median(),
            low: ratios.quantile(0.025),
            high: ratios.quantile(0.975),
        }
    }

    /// Whether the ratio reaches a goal. `None`: the measurements do not tell.
    pub(crate) fn reaches(self, goal: f64) -> Option<bool> {
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

    fn draw(&mut self, sample: &Sample) -> Sample {
        let draw = |_| sample.0.get(self.below(sample.0.len())).copied().unwrap_or(f64::NAN);
        Sample::new((0..sample.0.len()).map(draw).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_values() {
        let sample = Sample::new(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((sample.median(), sample.quantile(0.0), sample.quantile(1.0)), (2.5, 1.0, 4.0));
        assert!(Sample::new(Vec::new()).median().is_nan());
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
}
