//! Every failure gets the class, the retry verdict, the hint and the action it deserves.
